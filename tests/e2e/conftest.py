from collections.abc import Iterator

import pytest

from tests.e2e.home import Home


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of this test's own; nothing of it is left afterwards."""
    home = Home()
    for name in ("DSTACK_SERVER_URL", "DSTACK_TOKEN", "DSTACK_PROJECT", "DSTACK_SERVER_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home.path))
    yield home
    home.close()
    assert not home.path.exists()
