"""What all tests can ask for."""

import signal
from collections.abc import Iterator

import pytest

from tests.engines import DockerEngine
from tests.postgres import PostgresServer
from tests.s3 import S3Server

# A run in the background, or below `nohup`, ignores them; what tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
