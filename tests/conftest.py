"""What all tests can ask for."""

import functools
import os
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadGroupScheduling

from tests.engines import DockerEngine
from tests.postgres import PostgresServer
from tests.s3 import S3Server

# A run in the background, or below `nohup`, ignores them; what tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
SEED_MAX = 10**9

# The same examples on every machine, whatever its speed; `make deep` draws many more, from a seed that it prints.
settings.register_profile("ci", max_examples=100, derandomize=True, deadline=None, database=None)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


_ENGINE = re.compile(r'engine="(\w+)"|\b(engine): DockerEngine')


class OneProcessAnEngine(LoadGroupScheduling):
    """Spreads single tests over the processes, but keeps those of one container engine together: it starts once.

    The marker `xdist_group` would say so too, but xdist 3.8 does not see it with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _engine_of(file) or nodeid


@functools.cache
def _engine_of(file: str) -> str:
    """The engine of a file's tests; nothing where they need none. An engine of the file's own is named by the file."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if found := _ENGINE.search(text):
        return found[1] or found[2]
    return file if "DockerEngine(" in text else ""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcessAnEngine | None:
    return OneProcessAnEngine(config, log) if config.getoption("dist") == "loadgroup" else None


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
