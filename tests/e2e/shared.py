"""Servers that live as long as the test run: each test has a home and a project of its own on one of them."""

import asyncio
import itertools
from pathlib import Path
from typing import NoReturn

from sqlalchemy import insert

from dstack.api import Client
from dstack.kit.clock import CorrectedClock
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.postgres import Postgres
from dstack.store.sqlite import Sqlite
from dstack.store.tables import projects
from dstack.store.tx import Tx
from tests.e2e.home import TOKEN, Home
from tests.making import NOW, HandClock

PROJECTS = 1000
"""One for each test: more than there are tests."""


class SharedServer:
    """A server with its agent, and projects that nobody has used yet."""

    def __init__(self, database_url: str | None, settings: dict[str, str]) -> None:
        """Args:
        database_url: a PostgreSQL database instead of a file.
        settings: what its environment has besides.
        """
        self._numbers = itertools.count()
        self.home = Home()
        self.home.env |= {"DSTACK_LOCAL_BACKEND": "1", **settings}  # a test may add users
        self.home.data.mkdir(mode=0o700, parents=True)
        asyncio.run(_make_projects(_dialect(self.home, database_url)))
        self.clients_env = self.home.serve(database_url)

    @property
    def is_well(self) -> bool:
        """Whether it lives: a test that could not end its runs has ended it."""
        return self.home.server_pid() is not None

    def next_project(self) -> str:
        """The name of a project of which nothing is known but its name."""
        return _name(next(self._numbers))


class SharedHome(Home):
    """A home on a server that other tests use before and after this one."""

    def __init__(self, server: SharedServer) -> None:
        super().__init__()
        self._on = server
        self.project = server.next_project()
        self.clients_env = server.clients_env | {"DSTACK_PROJECT": self.project}
        self.env |= self.clients_env

    @property
    def data(self) -> Path:
        """The folder of the server's data, which has that of other tests too."""
        return self._on.home.data

    def end_jobs(self) -> None:
        """End the runs of this test's project; server and agent go on, unless a run does not end."""
        try:
            self._end_runs()
        except BaseException:  # a time-out of pytest's is one; the next test gets another server
            self._on.home.close()
            raise

    def _end_runs(self) -> None:
        client = Client.from_config(self.project, self.clients_env["DSTACK_SERVER_URL"], TOKEN)
        living = [run for run in client.runs.list(all=True) if not run.status.is_finished()]
        for run in living:
            run.stop(abort=True)
        for run in living:
            for _ in run.changes():
                pass
        client.close()

    def kill_server(self) -> NoReturn:
        self._refuse()

    def kill_agent(self) -> NoReturn:
        self._refuse()

    def end_servers_and_agents(self) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AssertionError('other tests use this server too: mark the test with `pytest.mark.server("own")`')


def _dialect(home: Home, database_url: str | None) -> Dialect:
    if database_url is None:
        return Sqlite(home.data / "server.db")
    return Postgres(database_url, CorrectedClock(HandClock()), server="0-tests")


async def _make_projects(dialect: Dialect) -> None:
    """Make the projects before there is a server: no call makes one yet."""

    def make(tx: Tx) -> None:
        rows = [{"id": f"0-{_name(number)}", "name": _name(number), "created_at": NOW} for number in range(PROJECTS)]
        tx.change(insert(projects).values(rows))

    database = Database(dialect, HandClock())
    database.open()
    await database.write(make)
    await database.close()


def _name(number: int) -> str:
    return f"test-{number}"
