"""Every route for every role, in the caller's own project and in another one."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from dstack.domain.backends import BackendRecord
from dstack.domain.roles import ALLOWED, OF_EVERYONE
from dstack.operations.context import Context
from dstack.protocol import routes
from dstack.protocol.actions import Role
from dstack.protocol.files import hash_of as hash_of_blob
from dstack.protocol.routes import Route
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.server.app import create_app
from dstack.server.settings import Settings
from dstack.store import backends, commits, secrets, users
from dstack.store.tx import Tx
from tests.making import NOW, job, run

ROUTES = {name: route for name, route in vars(routes).items() if isinstance(route, Route)}
WITH_TOKEN = {name: route for name, route in ROUTES.items() if route.action is not None}
SERVER_ADMIN = "server admin"
CALLERS = (SERVER_ADMIN, *(role.value for role in Role), "stranger")
BODIES: dict[str, Any] = {
    "ReadConfiguration": {"configuration": {"type": "task", "commands": ["true"]}},
    "SubmitRun": {"configuration": {"type": "task", "commands": ["true"]}},
    "UpdateRun": {"configuration": {"type": "task", "commands": ["true"]}},
    "StopRun": {},
    "GrantAccess": {"public_key": "ssh-ed25519 AAAA"},
    "BlobHashes": {"hashes": []},
    "SetSecret": {"value": "v"},
    "InitRepo": {"kind": "virtual"},
    "PutBackend": {"config": {"type": "cloud9"}},
    "CreateUser": {"name": "new"},
    "UpdateUser": {"is_admin": False},
    "CreateToken": {"name": "new"},
    "CreateProject": {"name": "new"},
    "SetMember": {"role": "user"},
}
PARAMETERS = {"run": "here", "secret": "A", "repo": "x", "hash": hash_of_blob(b""), "token": "spare", "backend": "gcp"}


@dataclass
class Walk:
    """The server with one user for each role in the project `theirs`, and the project `main` of somebody else."""

    http: httpx.AsyncClient

    async def ask(self, caller: str, route: Route, project: str = "theirs", **parameters: str) -> int:
        """Return the status of the answer to a caller."""
        return (await self.answer(caller, route, project, **parameters)).status_code

    async def answer(self, caller: str, route: Route, project: str = "theirs", **parameters: str) -> httpx.Response:
        """Return the answer to a caller."""
        known = {**PARAMETERS, "project": project, "user": "guest", **parameters}
        body = b"" if route.takes_bytes else route.request and json.dumps(BODIES[route.request]).encode()
        headers = {"Authorization": f"Bearer token of {caller.replace(' ', '-')}"}
        return await self.http.request(route.method, route.path.format_map(known), content=body, headers=headers)


@pytest.fixture
async def walk(context: Context, tmp_path: Path) -> AsyncIterator[Walk]:
    def people(tx: Tx) -> None:
        for caller in CALLERS:
            name = caller.replace(" ", "-")
            users.add_user(tx, f"id of {name}"[:36], name, is_admin=caller == SERVER_ADMIN)
            users.add_token(tx, f"{name}-1", f"id of {name}"[:36], "first", f"token of {name}", None)
            users.add_token(tx, f"{name}-2", f"id of {name}"[:36], "spare", f"spare of {name}", None)
        users.add_user(tx, "guest", "guest", is_admin=False)
        users.add_token(tx, "guest-1", "guest", "spare", "spare of guest", None)
        users.add_project(tx, "1-project", "theirs", "id of admin")
        for role in Role:
            users.put_member(tx, "1-project", f"id of {role}", role.value)
        users.put_member(tx, "1-project", "guest", "user")
        for project in ("0-project", "1-project"):
            secrets.put_secret(tx, project, "A", context.vault.seal("a"))
            done = run(id=f"{project}-run", name="here", project_id=project, status=RunStatus.DONE, finished_at=NOW)
            ended = job(id=f"{project}-job", run_id=done.id, project_id=project, status=JobStatus.DONE, finished_at=NOW)
            commits.add_run(tx, done, [ended], actor="user ada")

    await context.db.write(people)
    transport = httpx.ASGITransport(create_app(Settings(tmp_path), context), raise_app_exceptions=False)
    headers = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as http:
        yield Walk(http)


def may(caller: str, route: Route) -> bool:
    """Return whether the table allows the action of a route to a caller in the own project."""
    assert route.action is not None
    if caller == SERVER_ADMIN or route.action in OF_EVERYONE:
        return True
    return caller in {role.value for role in ALLOWED.get(route.action, ())}


@pytest.mark.parametrize("name", WITH_TOKEN)
async def test_route_is_open_to_the_roles_of_the_table_and_closed_to_all_others(walk: Walk, name: str) -> None:
    route = WITH_TOKEN[name]
    in_project, about_user = "{project}" in route.path, "/api/users/{user}" in route.path
    for caller in reversed(CALLERS):  # the strongest one comes last: what it deletes, nobody asks for afterwards
        own = {"user": caller.replace(" ", "-")} if about_user and route.action in OF_EVERYONE else {}
        status = await walk.ask(caller, route, **own)
        if in_project and caller == "stranger":
            assert status == 404, (caller, status)
        elif may(caller, route):
            assert status not in (401, 403, 422, 500), (caller, status)
        else:
            assert status == 403, (caller, status)


async def test_no_route_crosses_into_another_project(walk: Walk) -> None:
    for name, route in WITH_TOKEN.items():
        if "{project}" in route.path:
            answers = {caller: await walk.ask(caller, route, "main") for caller in CALLERS if caller != SERVER_ADMIN}
            assert set(answers.values()) == {404}, (name, answers)


async def test_no_answer_names_a_backend_of_another_project(
    walk: Walk, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = "of-main-alone"
    await context.db.write(lambda tx: backends.put(tx, BackendRecord("2-row", "aws", hidden, "0-project")))
    own = BODIES["SubmitRun"]["configuration"] | {"backends": [f"{hidden}s"]}
    monkeypatch.setitem(BODIES, "SubmitRun", {"configuration": own})
    monkeypatch.setitem(BODIES, "ReadConfiguration", {"configuration": own, "project": "theirs"})
    refused = await walk.answer("user", routes.READ_CONFIGURATION)
    assert f"there is no backend `{hidden}s`" in refused.text, "the word was judged"
    for name, route in WITH_TOKEN.items():
        for caller in reversed(CALLERS):
            if caller != SERVER_ADMIN and route.method != "DELETE":
                said = (await walk.answer(caller, route)).text
                assert f"`{hidden}`" not in said and f'"{hidden}"' not in said, (name, caller)


async def test_no_route_shows_or_changes_another_users_account(walk: Walk) -> None:
    for name, route in WITH_TOKEN.items():
        if "/api/users/{user}" in route.path:
            answers = {caller: await walk.ask(caller, route) for caller in CALLERS if caller != SERVER_ADMIN}
            assert set(answers.values()) == {403}, (name, answers)


async def test_no_route_takes_an_unknown_token(walk: Walk) -> None:
    answers = {name: await walk.ask("nobody", route) for name, route in WITH_TOKEN.items()}
    assert set(answers.values()) == {401}, answers


async def test_run_of_another_project_is_missing_by_its_id_too(walk: Walk) -> None:
    assert await walk.ask("admin", routes.GET_RUN, run="1-project-run") == 200
    assert await walk.ask("admin", routes.GET_RUN, run="0-project-run") == 404


@pytest.mark.parametrize(
    ("giver", "role", "status"),
    [("manager", "user", 200), ("manager", "manager", 200), ("manager", "admin", 403), ("admin", "admin", 200)],
)
async def test_nobody_gives_a_role_above_their_own(
    walk: Walk, monkeypatch: pytest.MonkeyPatch, giver: str, role: str, status: int
) -> None:
    monkeypatch.setitem(BODIES, "SetMember", {"role": role})
    assert await walk.ask(giver, routes.SET_MEMBER) == status


async def test_manager_neither_removes_nor_demotes_an_admin(walk: Walk) -> None:
    assert await walk.ask("manager", routes.REMOVE_MEMBER, user="admin") == 403
    assert await walk.ask("manager", routes.SET_MEMBER, user="admin") == 403


async def test_last_admin_stays(walk: Walk) -> None:
    assert await walk.ask("admin", routes.REMOVE_MEMBER, user="admin") == 400
    assert await walk.ask("admin", routes.SET_MEMBER, user="admin") == 400
    assert await walk.ask(SERVER_ADMIN, routes.UPDATE_USER, user="server-admin") == 400
    assert await walk.ask(SERVER_ADMIN, routes.DELETE_USER, user="server-admin") == 400
