"""Whatever a request holds, its answer is no 500, and a list of what is on record can always be shown."""

import json
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from starlette.types import Message

from dstack.operations import presenting
from dstack.operations.context import Context
from dstack.protocol import routes
from dstack.protocol.files import hash_of
from dstack.protocol.routes import Route
from dstack.server.http.openapi import errors_of
from dstack.store import commits, objects
from dstack.store.tables import jobs, runs
from dstack.store.tx import Tx
from tests.unit.server.conftest import PROJECT, RUNS

TASK = {"type": "task", "commands": ["true"]}
HALF, NUL = "\\ud800", "\\u0000"
HASH = "0" * 64


def submit(**more: str) -> bytes:
    """A submit in which some values are JSON as it stands."""
    fields = {"configuration": json.dumps(TASK), **more}
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


POISON: dict[str, tuple[str, str, bytes | None, str]] = {
    "a surrogate in a field": ("POST", RUNS, submit(configuration_path=f'"{HALF}"'), "body.configuration_path"),
    "a NUL in a field": ("POST", RUNS, submit(configuration_path=f'"a{NUL}b"'), "body.configuration_path"),
    "a surrogate deep inside": (
        "POST",
        RUNS,
        submit(configuration=f'{{"type":"task","commands":["true","{HALF}"]}}'),
        "body.configuration.commands.1",
    ),
    "a surrogate in a key": (
        "POST",
        RUNS,
        submit(configuration=f'{{"type":"task","commands":["true"],"env":{{"{HALF}":"1"}}}}'),
        "body.configuration.env",
    ),
    "raw bytes of a surrogate": ("POST", RUNS, submit(configuration_path='"\x00"').replace(b"\0", b"\xed\xa0\x80"), ""),
    "another encoding": ("POST", RUNS, submit().decode().encode("utf-16"), ""),
    "a plan": ("POST", f"{RUNS}/plan", submit(run_name=f'"{HALF}"'), "body.run_name"),
    "an access": ("POST", f"{RUNS}/x/access", f'{{"public_key":"{HALF}"}}'.encode(), "body.public_key"),
    "a secret's value": ("PUT", f"{PROJECT}/secrets/A", f'{{"value":"{HALF}"}}'.encode(), "body.value"),
    "a secret with a NUL": ("PUT", f"{PROJECT}/secrets/A", f'{{"value":"{NUL}"}}'.encode(), "body.value"),
    "a repo's URL": (
        "PUT",
        f"{PROJECT}/repos/x",
        f'{{"kind":"remote","url":"https://{HALF}"}}'.encode(),
        "body.url",
    ),
    "a hash": ("POST", f"{PROJECT}/blobs/missing", f'{{"hashes":["{HALF}"]}}'.encode(), "body.hashes.0"),
    "a path with a NUL": ("GET", f"{PROJECT}/secrets/a%00b", None, "path.secret"),
    "a path that is no UTF-8": ("PUT", f"{PROJECT}/repos/a%FF", b'{"kind":"local"}', "path.repo"),
    "a path with a surrogate": ("DELETE", f"{RUNS}/%ED%A0%80", None, "path.run"),
    "a project": ("GET", "/api/projects/%00/runs", None, "path.project"),
    "a query with a NUL": ("GET", f"{RUNS}?before=%00", None, "query.before"),
    "a query that is no UTF-8": ("GET", f"{PROJECT}/events?run=%FF", None, "query.run"),
}


@pytest.mark.parametrize(("method", "url", "body", "field"), POISON.values(), ids=POISON)
async def test_text_that_cannot_be_stored_is_refused_with_its_field_named(
    http: httpx.AsyncClient, method: str, url: str, body: bytes | None, field: str
) -> None:
    answer = await http.request(method, url, content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert not field or f"`{field}` has " in answer.json()["detail"]
    assert (await http.get(RUNS, params={"all": True})).json()["runs"] == []


async def test_a_header_with_a_nul_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post(RUNS, content=submit(), headers={"Idempotency-Key": "a\0b"})
    assert (answer.status_code, answer.json()["detail"].partition(",")[0]) == (
        422,
        "`header.idempotency-key` has a NUL character",
    )


BEYOND = 1 << 63
NASTY: dict[str, tuple[str, str, bytes | None, set[int]]] = {
    "a number beyond 64 bits": ("GET", f"{PROJECT}/events?after={BEYOND}", None, {422}),
    "an offset beyond 64 bits": ("GET", f"{RUNS}/x/logs?offset={BEYOND}", None, {422}),
    "the largest offset": ("GET", f"{RUNS}/here/logs?offset={1 << 62}", None, {200}),
    "a replica beyond 64 bits": ("GET", f"{RUNS}/here/logs?replica={BEYOND}", None, {422}),
    "metrics of a node beyond 64 bits": ("GET", f"{RUNS}/here/metrics?node={BEYOND}", None, {422}),
    "access to a replica beyond 64 bits": (
        "POST",
        f"{RUNS}/here/access",
        f'{{"public_key":"ssh-ed25519 A","replica":{BEYOND}}}'.encode(),
        {404},
    ),
    "the first year": ("GET", f"{RUNS}/here/logs?start_time=0001-01-01T00:00:00%2B14:00", None, {200}),
    "the last year": ("GET", f"{RUNS}/here/metrics?start_time=9999-12-31T23:59:59-14:00", None, {200}),
    "no JSON": ("POST", RUNS, b"{", {422}),
    "JSON that is no object": ("POST", RUNS, b"[]", {422}),
    "an infinite number": ("POST", RUNS, submit(configuration='{"type":"task","max_price":1e999}'), {422}),
    "a constant that JSON has not": ("POST", RUNS, submit(configuration='{"type":"task","max_price":NaN}'), {422}),
    "a number of 5,000 digits": ("POST", RUNS, submit(configuration=f'{{"priority":{"9" * 5000}}}'), {422}),
    "a number of 4,000 digits": (
        "POST",
        RUNS,
        submit(configuration=f'{{"type":"task","commands":["true"],"priority":{"9" * 4000}}}'),
        {400},
    ),
    "lists 100 deep": ("POST", RUNS, submit(configuration=f'{{"env":{"[" * 100}{"]" * 100}}}'), {422}),
    "lists 100,000 deep": ("POST", RUNS, b"[" * 100_000, {422}),
    "a body of 3 MiB": ("POST", RUNS, submit(configuration_path=f'"{"x" * (3 << 20)}"'), {413}),
    "a blob of 5 MiB": ("PUT", f"{PROJECT}/blobs/{HASH}", b"x" * (5 << 20), {413}),
    "a hash that is none": ("PUT", f"{PROJECT}/blobs/x", b"x", {400}),
    "a page that is none": ("POST", f"{PROJECT}/blobs/missing", b'{"hashes":[],"pages":["x"]}', {400}),
    "a name that is none": ("POST", RUNS, submit(run_name='"Bad_Name"'), {400}),
    "a path that nobody serves": ("GET", f"{PROJECT}/nothing-here", None, {404}),
    "a method that nobody serves": ("PATCH", RUNS, b"{}", {405}),
}


@pytest.fixture
async def here(http: httpx.AsyncClient) -> None:
    """A run of this name."""
    assert (await http.post(RUNS, content=submit(run_name='"here"'))).status_code == 201


def route_of(method: str, url: str) -> Route:
    """The route that serves a URL."""
    known = [one for one in vars(routes).values() if isinstance(one, Route) and one.method == method]
    path = url.partition("?")[0]
    return next(one for one in known if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one.path), path))


@pytest.mark.parametrize(("method", "url", "body", "statuses"), NASTY.values(), ids=NASTY)
async def test_a_request_that_cannot_work_is_the_callers_mistake(
    http: httpx.AsyncClient, here: None, method: str, url: str, body: bytes | None, statuses: set[int]
) -> None:
    answer = await http.request(method, url, content=body)
    assert answer.status_code in statuses
    if answer.is_error and answer.status_code != 405 and "nothing-here" not in url:
        assert answer.status_code in errors_of(route_of(method, url))
    if answer.is_error:
        assert answer.json()["status"] == answer.status_code


@pytest.mark.parametrize("number", [str(BEYOND), "-1", "9" * 5000, "x"])
async def test_a_last_event_id_that_is_none_is_refused(http: httpx.AsyncClient, here: None, number: str) -> None:
    for url in (f"{PROJECT}/events", f"{RUNS}/here/logs"):
        assert (await http.get(url, headers={"Last-Event-ID": number})).status_code == 422


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 1 << 16):
        yield b" " * (1 << 16)


@pytest.mark.parametrize(("method", "url"), [("POST", RUNS), ("PUT", f"{PROJECT}/blobs/{HASH}")])
async def test_a_body_in_chunks_has_the_same_limit(http: httpx.AsyncClient, method: str, url: str) -> None:
    answer = await http.request(method, url, content=chunks(5 << 20))
    assert (answer.status_code, answer.json()["code"]) == (413, "invalid_request")


async def test_without_a_token_no_body_is_read(http: httpx.AsyncClient) -> None:
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b"{"

    answer = await http.post(RUNS, content=body(), headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, read) == (401, False)


PAGES: list[Any] = [
    5,
    "text",
    ["path", "file", 0o644, 1, [5], ""],
    ["path", "file", 0o644, 1, [[]], ""],
    ["path", "file", 0o644, 1, "text", ""],
    ["path", "file", 0o644, 1, ["\ud800"], ""],
    [None, "file", 0o644, 1, [HASH], ""],
    ["path", "file", "all", 1, [HASH], ""],
    {"path": 1, "kind": 2, "mode": 3, "size_bytes": 4, "chunks": 5, "target": 6},
]


@pytest.mark.parametrize("page", [*(json.dumps(one).encode() for one in PAGES), b"[" * 100_000, b"\xff", b"{"])
async def test_a_blob_that_is_no_page_is_refused_as_one(http: httpx.AsyncClient, page: bytes) -> None:
    name = hash_of(page)
    assert (await http.put(f"{PROJECT}/blobs/{name}", content=page)).status_code == 204
    answer = await http.post(f"{PROJECT}/blobs/missing", json={"hashes": [], "pages": [name]})
    assert (answer.status_code, answer.json()["detail"]) == (400, f"The blob `{name}` is not a page of a manifest")


def change_spec(tx: Tx, **fields: object) -> None:
    """Put into the record of the run `here` what this server would not."""
    run = objects.find_run_by(tx, "0-project", "here")
    assert run is not None
    commits.record(tx, replace(run, spec={**run.spec, **fields}))


async def test_a_run_with_text_that_an_older_server_stored_is_shown_with_marks(
    http: httpx.AsyncClient, context: Context, here: None
) -> None:
    await context.db.write(lambda tx: change_spec(tx, configuration_path="\ud800"))
    listed = (await http.get(RUNS, params={"all": True})).json()["runs"]
    assert [(run["name"], run["spec"]["configuration_path"]) for run in listed] == [("here", "?")]
    assert (await http.post(f"{RUNS}/here/stop", content=b"{}")).status_code == 200
    assert (await http.get(f"{RUNS}/here")).json()["spec"]["configuration_path"] == "?"


async def test_a_run_that_cannot_be_shown_is_marked_and_hides_no_other(
    http: httpx.AsyncClient, context: Context, here: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await http.post(RUNS, content=submit(run_name='"other"'))).status_code == 201

    def damage(tx: Tx) -> None:
        here = select(runs.c.id).where(runs.c.name == "here").scalar_subquery()
        tx.change(update(jobs).where(jobs.c.run_id == here).values(demand={"of": "a later version"}))

    await context.db.write(damage)
    with caplog.at_level(logging.ERROR):
        listed = (await http.get(RUNS)).json()["runs"]
    details = {run["name"]: run["detail"] for run in listed}
    assert details["here"].startswith("This run cannot be shown in full: KeyError")
    assert " of 2 in the queue" in details["other"]
    assert "cannot be shown in full" in caplog.text
    assert (await http.post(f"{RUNS}/here/stop", content=b"{}")).status_code == 200


async def test_a_run_of_a_configuration_that_this_version_cannot_read_is_listed_in_full(
    http: httpx.AsyncClient, context: Context, here: None
) -> None:
    await context.db.write(lambda tx: change_spec(tx, configuration={"type": "of-a-later-version"}))
    (listed,) = (await http.get(RUNS)).json()["runs"]
    assert listed["spec"]["configuration"] == {"type": "of-a-later-version"}
    assert "cannot be shown" not in listed["detail"]


async def test_nothing_is_committed_by_a_request_that_fails(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(presenting, "_run_view", broken)
        assert (await http.post(RUNS, content=submit())).status_code == 500
    assert (await http.get(RUNS, params={"all": True})).json()["runs"] == []


async def test_the_document_names_the_errors_of_every_operation_and_their_shape(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert document["components"]["schemas"]["Problem"]["required"] == ["title", "status", "code", "detail"]
    for route in (one for one in vars(routes).values() if isinstance(one, Route)):
        operation = document["paths"][route.path][route.method.lower()]
        documented = {int(code): answer for code, answer in operation["responses"].items()}
        assert set(documented) == {route.status, *errors_of(route)}
        assert all(documented[code]["content"] == problem for code in errors_of(route))
        assert ("security" in operation) is (route.action is not None)


async def test_upload_that_breaks_off_is_no_fault_of_the_server(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    app = http._transport.app  # type: ignore[attr-defined]
    messages: list[Message] = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"}]
    answered: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        answered.append(message)

    asked = http.build_request("PUT", f"{PROJECT}/blobs/{HASH}")
    headers = [(name.lower(), value) for name, value in asked.headers.raw]
    path = asked.url.path
    scope = {"type": "http", "method": "PUT", "path": path, "raw_path": path.encode(), "query_string": b""}
    with caplog.at_level(logging.ERROR):
        await app({**scope, "headers": headers, "root_path": "", "http_version": "1.1"}, receive, send)
    assert (answered[0]["status"], caplog.text) == (408, "")


async def test_run_in_a_status_of_a_later_version_hides_no_other_and_no_page(
    http: httpx.AsyncClient, context: Context, here: None, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("second", "third"):
        assert (await http.post(RUNS, content=submit(run_name=f'"{name}"'))).status_code == 201
    later = update(runs).where(runs.c.name == "second").values(status="hibernating")
    await context.db.write(lambda tx: tx.change(later))
    pages = [(await http.get(RUNS, params={"limit": 1})).json()]
    while pages[-1]["next"] is not None:
        pages.append((await http.get(RUNS, params={"limit": 1, "before": pages[-1]["next"]})).json())
    assert {run["name"] for page in pages for run in page["runs"]} == {"here", "third"}
    assert "hibernating" in caplog.text


async def test_path_of_a_service_without_a_data_plane_is_to_be_tried_again(http: httpx.AsyncClient) -> None:
    answer = await http.get("/proxy/services/main/web/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
