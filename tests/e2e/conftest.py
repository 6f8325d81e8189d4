"""A home for each test, on everything that a server may stand on where the module says so."""

from collections.abc import Iterator

import pytest

from tests.e2e.home import Home
from tests.nvml import T4, FakeCard, build_library


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module says with `FOUNDATIONS` on what its tests run: a file and folders, PostgreSQL, PostgreSQL and S3."""
    foundations = getattr(metafunc.module, "FOUNDATIONS", None)
    if foundations is not None and "home" in metafunc.fixturenames:
        metafunc.parametrize("home", foundations, indirect=True)


@pytest.fixture
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of this test's own; nothing of it is left afterwards."""
    home = Home()
    for name in ("DSTACK_SERVER_URL", "DSTACK_TOKEN", "DSTACK_PROJECT", "DSTACK_SERVER_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home.path))
    foundation = getattr(request, "param", "file")
    if foundation == "postgres and s3":
        home.env |= request.getfixturevalue("s3").settings()
    if foundation != "file":
        for name, value in home.serve(request.getfixturevalue("postgres_url")).items():
            monkeypatch.setenv(name, value)
    yield home
    home.close()
    assert not home.path.exists()


@pytest.fixture
def two_cards(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards of NVIDIA's on the host of whatever starts from now on."""
    folder = tmp_path_factory.mktemp("nvml")
    build_library(folder, [FakeCard(uuid="GPU-a"), T4])
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
