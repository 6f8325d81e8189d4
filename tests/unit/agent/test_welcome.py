"""The welcome of an agent: its pages, and which servers get one."""

import asyncio
import json
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from dstack.agent.jobs import Jobs
from dstack.agent.link import Link
from dstack.agent.metrics.buffer import Buffer
from dstack.agent.wants import Wants
from dstack.agent.welcome import welcome_pages
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import FROM_AGENT, HostResources, JobOrder, message_of
from dstack.protocol.frames import LINE_BYTES_MAX, read_frame, write_frame
from tests.making import ended
from tests.patience import PATIENCE_S

RESOURCES = HostResources(1, 1, 1)
REPORTS = [ended(job_id=f"job-{number}", message="x" * 200) for number in range(30_000)]


def test_welcome_of_very_many_reports_has_pages_that_a_server_reads() -> None:
    pages = list(welcome_pages(2, RESOURCES, None, REPORTS))
    assert all(len(json.dumps(page)) < LINE_BYTES_MAX for page in pages)
    assert [page["more"] for page in pages] == [True] * (len(pages) - 1) + [False]
    assert [report for page in pages for report in message_of(FROM_AGENT, page).jobs] == REPORTS


def test_server_of_the_first_version_gets_one_page() -> None:
    (page,) = welcome_pages(1, RESOURCES, None, REPORTS[:5])
    assert (page["t"], page["agent"]["v"], len(page["jobs"])) == ("welcome", 1, 5)
    (page,) = welcome_pages(2, RESOURCES, None, [])
    assert page["jobs"] == [] and not page["more"]


class PlayedJobs:
    """As many of `agent.jobs.Jobs` as a link needs."""

    def __init__(self) -> None:
        self.on_change: Any = None
        self.stopped: list[tuple[str, float]] = []

    def reports(self) -> list[Any]:
        return []

    async def start(self, order: JobOrder) -> None:
        raise AssertionError("no order is whole here")

    async def stop(self, job_id: str, grace_s: float) -> None:
        self.stopped.append((job_id, grace_s))


class PlayedServer:
    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, **frame: object) -> None:
        write_frame(self.writer, frame)

    async def hear(self) -> dict[str, Any] | None:
        async with asyncio.timeout(PATIENCE_S):
            received = await read_frame(self.reader)
        return None if received is None else received[0]


@pytest.fixture
def jobs() -> PlayedJobs:
    return PlayedJobs()


@pytest.fixture
async def server(jobs: PlayedJobs) -> AsyncIterator[PlayedServer]:
    clock = SystemClock()
    link = Link(cast(Jobs, jobs), Wants(), Buffer(), lambda: RESOURCES, clock, lambda: None)
    here, there = socket.socketpair()
    serving = asyncio.create_task(link.serve(*await asyncio.open_unix_connection(sock=there, limit=LINE_BYTES_MAX)))
    server = PlayedServer(*await asyncio.open_unix_connection(sock=here, limit=LINE_BYTES_MAX))
    yield server
    server.writer.close()
    await asyncio.wait([serving])
    await link.close()


@pytest.mark.parametrize(
    ("spoken", "version"),
    [
        ({}, 1),
        ({"v": 1}, 1),
        ({"v": 1, "newest": 2}, 2),
        ({"v": 2, "newest": 3}, 2),
        ({"v": 1, "newest": 2, "x": 3}, 2),
    ],
)
async def test_server_of_the_next_or_last_version_is_welcomed(
    server: PlayedServer, spoken: dict[str, int], version: int
) -> None:
    server.send(t="hello", session=1, server="test", **spoken)
    welcome = await server.hear()
    assert welcome is not None and welcome["agent"]["v"] == version


@pytest.mark.parametrize(
    ("spoken", "hint"),
    [
        ({"v": 3, "newest": 4}, "Restart the agent: it starts in the server's version, and its jobs continue"),
        ({"v": 0}, "Update the server"),
    ],
)
async def test_server_two_versions_apart_is_refused_with_what_to_do(
    server: PlayedServer, spoken: dict[str, int], hint: str
) -> None:
    server.send(t="hello", session=1, server="test", **spoken)
    refusal = await server.hear()
    assert refusal is not None and refusal["error"]["hint"] == hint
    assert refusal["error"]["message"].startswith("This agent speaks versions 1 to 2 of the protocol, and the server")
    assert await server.hear() is None


@pytest.mark.parametrize("hello", [{"t": "stop"}, {"t": "hello", "session": "1", "server": "test"}, {"t": "unknown"}])
async def test_server_that_does_not_say_hello_is_refused(server: PlayedServer, hello: dict[str, Any]) -> None:
    server.send(**hello)
    refusal = await server.hear()
    assert refusal is not None and refusal["error"]["code"] == "agent_refused"


async def test_malformed_and_unknown_commands_are_refused_and_the_connection_goes_on(
    server: PlayedServer, jobs: PlayedJobs
) -> None:
    server.send(t="hello", session=1, server="test", v=1, newest=2)
    assert await server.hear()
    server.send(t="stop", id=1, job_id=7, grace_s=1.0)
    server.send(t="dance", id=2)
    server.send(t="weather", sun=True)
    server.send(t="start", id=3, order={"job_id": "0-job", "run_name": "a", "script": "true", "quantum": 1})
    server.send(t="stop", id=4, job_id="0-job", grace_s=1, mood="good")
    replies = [await server.hear() for _ in range(4)]
    said = [reply and reply.get("error", {}).get("message") for reply in replies]
    assert said == [
        "The server sent a malformed message `stop`: 7 is not a `str`",
        "The agent does not know the command `dance`",
        "The agent could not carry out `start`: `JobOrder` has no field `quantum`",
        None,
    ]
    assert jobs.stopped == [("0-job", 1)]


async def test_malformed_message_that_has_no_reply_ends_the_connection(server: PlayedServer) -> None:
    server.send(t="hello", session=1, server="test", v=1, newest=2)
    assert await server.hear()
    server.send(t="log_ack", job_id="0-job", stream="job", offset=-1)
    assert await server.hear() is None
