"""Thousands of generated requests, which fit the OpenAPI document or do not: no answer is a 500, each is documented.

Their chance comes from the fixture `seed`; `EXAMPLES` is how many each endpoint gets.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy, booleans, one_of, sampled_from
from sqlalchemy import insert

from dstack.kit.clock import SystemClock
from dstack.protocol import routes
from dstack.protocol.files import hash_of as hash_of_blob
from dstack.protocol.routes import Route
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.server.app import create_app
from dstack.server.connections import Lobby, connections_of
from dstack.server.settings import Settings
from dstack.store import commits, users
from dstack.store.db import Database
from dstack.store.sqlite import Sqlite
from dstack.store.tables import projects
from dstack.store.tx import Tx
from tests.making import NOW, job, run
from tests.unit.conftest import context_on
from tests.unit.server.conftest import TOKEN

pytestmark = pytest.mark.deep

EXAMPLES = int(os.environ.get("EXAMPLES", "150"))
ROUTES = {name: route for name, route in vars(routes).items() if isinstance(route, Route)}
TASK = {"type": "task", "commands": ["true"]}
PATIENCE_S = 60


class Served:
    """The application on a real database, behind real connections, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.document: dict[str, Any] = {}
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="served")
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join()

    async def _serve(self) -> None:
        clock = SystemClock()
        db = Database(Sqlite(self._folder / "server.db"), clock)
        db.open()
        await db.write(_people)
        app = create_app(Settings(self._folder), context_on(db, clock, self._folder))
        self.document = app.openapi()
        config = uvicorn.Config(
            app, http=connections_of(Lobby()), ws="none", lifespan="off", log_config=None, access_log=False
        )
        self._server = uvicorn.Server(config)
        self._ready.set()
        await self._server._serve([self._listener])  # `serve` wants to hear signals, as only a main thread can
        await db.close()


def _people(tx: Tx) -> None:
    users.add_user(tx, "0-user", "ada", is_admin=True)
    users.add_token(tx, "0-token", "0-user", "tests", TOKEN, None)
    tx.change(insert(projects).values(id="0-project", name="main", created_at=NOW))
    done = run(name="here", status=RunStatus.DONE, finished_at=NOW, version=0)
    commits.add_run(tx, done, [job(status=JobStatus.DONE, finished_at=NOW, version=0)], actor="user ada")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("served"))
    yield one
    one.close()


def requests_of(operation: Any) -> SearchStrategy[Any]:
    """Requests that fit the document and others, about what there is and what there is not."""
    from schemathesis import GenerationMode

    there = {"project": "main", "run": "here", "secret": "A", "repo": "x", "hash": hash_of_blob(b"")}
    names = {one.name for one in operation.path_parameters}
    known = {name: value for name, value in there.items() if name in names}
    strategies: list[SearchStrategy[Any]] = [
        operation.as_strategy(generation_mode=mode, **more)
        for mode in GenerationMode
        for more in ({}, {"path_parameters": known} if known else {})
    ]
    return one_of(strategies)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_no_generated_request_breaks_the_server(served: Served, route: Route, seed: int) -> None:
    import schemathesis
    from schemathesis.checks import load_all_checks, not_a_server_error
    from schemathesis.specs.openapi import checks

    load_all_checks()
    operation = schemathesis.openapi.from_dict(served.document)[route.path][route.method]
    asked = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]

    @hypothesis.seed(seed)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=requests_of(operation), is_task=booleans(), knows_token=sampled_from([True] * 9 + [False]))
    def ask(case: Any, is_task: bool, knows_token: bool) -> None:
        if is_task and isinstance(case.body, dict) and isinstance(case.body.get("configuration"), dict):
            case.body["configuration"] = {**case.body["configuration"], **TASK}
        if route.action is not None and knows_token:
            others = {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
            case.headers = {**others, "Authorization": f"Bearer {TOKEN}"}
        response = case.call(base_url=served.url, timeout=PATIENCE_S)
        case.validate_response(response, checks=asked)

    ask()
