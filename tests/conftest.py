"""What all tests can ask for."""

import os
import secrets
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.engines import DockerEngine
from tests.postgres import PostgresServer
from tests.s3 import S3Server

# A run in the background, or below `nohup`, ignores them; what tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SEED_MAX = 10**9

# The same examples on every machine, whatever its speed; `make deep` draws many more, from a seed that it prints.
settings.register_profile("ci", max_examples=100, derandomize=True, deadline=None, database=None)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


ENGINES = ("engine", "podman")
"""The container engines of a test run: all tests of one are in the same process, so that it starts once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        asked = {mark.kwargs.get("engine") for mark in item.iter_markers("server")}
        asked.update(getattr(item, "fixturenames", ()))
        for name in ENGINES:
            if name in asked and item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what this machine could not test, so that nobody takes it for tested."""
    if skipped := terminalreporter.getreports("skipped"):
        terminalreporter.section("not tested on this machine", red=True)
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.line(f"{report.nodeid}: {reason}", red=True)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The chance of a deep test: `DSTACK_TEST_SEED`, or a new number. A failure shows it."""
    assert request.node.get_closest_marker("deep"), "CI draws nothing by chance: mark the test with `deep`"
    given = os.environ.get("DSTACK_TEST_SEED")
    number = int(given) if given else secrets.randbelow(SEED_MAX)
    print(f"seed {number}; repeat with: DSTACK_TEST_SEED={number} pytest -m deep {request.node.nodeid}")
    return number


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server of this test run."""
    server = PostgresServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A new database on it."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3-compatible storage of this test run."""
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    """A container engine of this test run."""
    server = DockerEngine()
    server.start()
    yield server
    server.stop()
