"""A home for each test, on everything that a server may stand on where the module says so."""

from collections.abc import Iterator

import pytest

from tests.e2e import forked
from tests.e2e.home import Home, wait_for
from tests.e2e.shared import SharedHome, SharedServer
from tests.nvml import T4, FakeCard, build_library

Servers = dict[tuple[str, str | None], SharedServer]


MARKERS = [
    "server(whose, *, engine): the server of the test's home is its `own`, or `shared` with others; "
    "`engine` is the fixture of its machine's container engine",
]


def pytest_configure(config: pytest.Config) -> None:
    for line in MARKERS:
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module says with `FOUNDATIONS` on what its tests run: a file and folders, PostgreSQL, PostgreSQL and S3."""
    foundations = getattr(metafunc.module, "FOUNDATIONS", None)
    if foundations is not None and "home" in metafunc.fixturenames:
        metafunc.parametrize("home", foundations, indirect=True)


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Servers]:
    """The servers of this process that tests share, by foundation and engine."""
    servers: Servers = {}
    yield servers
    for server in servers.values():
        if server.is_well:
            server.home.close()


@pytest.fixture
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of this test's own; nothing of it is left afterwards.

    `pytest.mark.server("shared")` puts it on a server that other tests use too, in a project of its own. With
    `engine="NAME"` the machine has the container engine of that fixture.
    """
    forked.start_server()
    marks = list(request.node.iter_markers("server"))
    (whose,) = next((mark.args for mark in marks if mark.args), ("own",))
    engine = next((request.getfixturevalue(mark.kwargs["engine"]) for mark in marks if mark.kwargs), None)
    settings = {} if engine is None else {"DOCKER_HOST": engine.host}
    for name in ("DSTACK_SERVER_URL", "DSTACK_TOKEN", "DSTACK_PROJECT", "DSTACK_SERVER_DIR"):
        monkeypatch.delenv(name, raising=False)
    home = {"own": own_home, "shared": shared_home}[whose](request, settings)
    for name in ("HOME", "DSTACK_SERVER_URL", "DSTACK_TOKEN", "DSTACK_PROJECT", *settings):
        if name in home.env:
            monkeypatch.setenv(name, home.env[name])
    yield home
    home.close()
    assert not home.path.exists()
    if engine is not None:
        wait_for("the end of all containers", lambda: engine.containers() == [])


def own_home(request: pytest.FixtureRequest, settings: dict[str, str]) -> Home:
    """A home with a server of its own: embedded where it stands on a file."""
    home = Home()
    home.env |= settings
    foundation = getattr(request, "param", "file")
    if foundation == "postgres and s3":
        home.env |= request.getfixturevalue("s3").settings()
    if foundation != "file":
        home.serve(request.getfixturevalue("postgres_url"))
    return home


def shared_home(request: pytest.FixtureRequest, settings: dict[str, str]) -> Home:
    """A home on the server of this process that stands on the same."""
    servers: Servers = request.getfixturevalue("shared_servers")
    key = (getattr(request, "param", "file"), settings.get("DOCKER_HOST"))
    if key not in servers or not servers[key].is_well:
        postgres = request.getfixturevalue("postgres") if key[0] != "file" else None
        bucket = request.getfixturevalue("s3").settings() if key[0] == "postgres and s3" else {}
        servers[key] = SharedServer(postgres and postgres.url(postgres.create()), settings | bucket)
    return SharedHome(servers[key])


@pytest.fixture
def two_cards(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards of NVIDIA's on the host of whatever starts from now on."""
    folder = tmp_path_factory.mktemp("nvml")
    build_library(folder, [FakeCard(uuid="GPU-a"), T4])
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
