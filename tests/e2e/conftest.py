"""A home for each test, on either database where the module says so."""

from collections.abc import Iterator

import pytest

from tests.e2e.home import Home


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `ON_BOTH_DATABASES = True` is run once with a file and once with PostgreSQL."""
    if "home" in metafunc.fixturenames and getattr(metafunc.module, "ON_BOTH_DATABASES", False):
        metafunc.parametrize("home", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of this test's own; nothing of it is left afterwards."""
    home = Home()
    for name in ("DSTACK_SERVER_URL", "DSTACK_TOKEN", "DSTACK_PROJECT", "DSTACK_SERVER_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home.path))
    if getattr(request, "param", "sqlite") == "postgres":
        for name, value in home.serve(request.getfixturevalue("postgres_url")).items():
            monkeypatch.setenv(name, value)
    yield home
    home.close()
    assert not home.path.exists()
