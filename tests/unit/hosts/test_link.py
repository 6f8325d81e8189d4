"""The server's end of a connection, against an agent that is played by hand."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dstack.errors import BackendError, HostTrouble, HostUnreachable
from dstack.hosts import link as links
from dstack.hosts import printed
from dstack.hosts.inbox import Strangers, Welcome
from dstack.hosts.link import Link
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import (
    ORDER_FIELDS,
    Engine,
    GpuPoint,
    JobOrder,
    JobReport,
    LogGap,
    Point,
    Probe,
    Serving,
    points_to_json,
    to_json,
)
from dstack.protocol.frames import LINE_BYTES_MAX, read_frame, write_frame
from dstack.testing.streams import Pipe
from tests.making import at_once, ended, report
from tests.patience import PATIENCE_S

BOTH_STREAMS = {("0-job", "job"): 0, ("0-job", "agent"): 0}


class Heard:
    """An inbox that remembers, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.failures = 0
        self.failures_to_store = 0
        self.reports: asyncio.Queue[JobReport] = asyncio.Queue()
        self.logs: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.points: asyncio.Queue[dict[str, list[Point]]] = asyncio.Queue()
        self.ports: asyncio.Queue[int] = asyncio.Queue()
        self.troubles: asyncio.Queue[str] = asyncio.Queue()
        self.may_store = asyncio.Event()
        self.may_store.set()
        self.wanted: dict[tuple[str, str], int] = {}
        self.jobs = {"0-job", "1-job"}
        self.strangers: Strangers = {}

    def _maybe_fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ValueError("the disk is full")

    async def jobs_on(self, instance_id: str) -> set[str]:
        return self.jobs

    async def welcomed(self, instance_id: str, welcome: Welcome) -> tuple[dict[tuple[str, str], int], Strangers]:
        self.welcome = welcome
        return self.wanted, self.strangers

    async def disconnected(self, instance_id: str) -> None:
        self._maybe_fail()

    async def not_started(self, instance_id: str, why: str) -> None:
        self.troubles.put_nowait(why)

    async def reported(self, instance_id: str, reports: list[JobReport]) -> Strangers:
        self._maybe_fail()
        for said in reports:
            self.reports.put_nowait(said)
        return {}

    async def logged(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        self._maybe_fail()
        await self.may_store.wait()
        if self.failures_to_store:
            self.failures_to_store -= 1
            raise ValueError("the disk is full")
        self.logs.put_nowait((job_id, data))
        return offset + len(data)

    def measured(self, instance_id: str, points: Mapping[str, Sequence[Point]]) -> None:
        self.points.put_nowait({job_id: list(some) for job_id, some in points.items()})

    async def lost(self, job_id: str, stream: str, gap: LogGap) -> int:
        self.logs.put_nowait((job_id, b"lost %d" % (gap.end - gap.offset)))
        return gap.end

    async def engine_found(self, instance_id: str, engine: Engine) -> None:
        self.engine = engine

    async def ssh_ready(self, instance_id: str, port: int, host_key: str) -> None:
        self.ports.put_nowait(port)

    async def blob(self, instance_id: str, hash: str) -> bytes | None:
        return None


class PlayedAgent:
    """Connections come out of `next`; what is said on them is up to the test."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[Pipe] = asyncio.Queue()
        self.pipe: Pipe

    async def connect(self) -> Any:
        ours, theirs = Pipe.pair(0.0)
        self._came.put_nowait(ours)
        return theirs.streams()

    async def welcome(self, **agent: object) -> dict[str, Any]:
        """Take the next connection, and say welcome. Returns the hello."""
        hello = await self.next_hello()
        resources = {"cpus": 1, "memory_mib": 1, "disk_mib": 1}
        self.say(t="welcome", agent=agent, resources=resources, ssh=None, jobs=[])
        return hello

    async def next_hello(self) -> dict[str, Any]:
        """Take the next connection. Returns the hello."""
        async with asyncio.timeout(PATIENCE_S):
            self.pipe = await self._came.get()
        return await self.hear()

    def say(self, payload: bytes | None = None, **frame: object) -> None:
        write_frame(self.pipe.streams()[1], frame, payload)

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            received = await read_frame(self.pipe.reader)
        assert received is not None
        return received[0]


@pytest.fixture
def inbox() -> Heard:
    return Heard()


@pytest.fixture
def agent() -> PlayedAgent:
    return PlayedAgent()


@pytest.fixture
async def link(agent: PlayedAgent, inbox: Heard) -> AsyncIterator[Link]:
    made = Link("0-instance", agent, inbox, SystemClock(), epoch=7, pauses=at_once())
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


async def next_of(queue: asyncio.Queue[Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await queue.get()


@pytest.mark.parametrize("failures", [1, 2], ids=["once", "and the note of it too"])
async def test_log_bytes_that_cannot_be_stored_are_heard_on_the_next_connection(
    link: Link, agent: PlayedAgent, inbox: Heard, failures: int
) -> None:
    inbox.wanted = {("0-job", "job"): 0}
    inbox.failures = failures
    for _ in range(2):
        await agent.welcome()
        assert (await agent.hear())["t"] == "follow"
        agent.say(b"hello", t="log", job_id="0-job", stream="job", offset=0, at=0.0)
    assert await next_of(inbox.logs) == ("0-job", b"hello")


async def test_reports_that_cannot_be_stored_are_heard_on_the_next_connection(
    link: Link, agent: PlayedAgent, inbox: Heard
) -> None:
    inbox.failures = 1
    for _ in range(2):
        await agent.welcome()
        agent.say(t="job", report=to_json(report()))
    assert await next_of(inbox.reports) == report()


async def test_what_comes_while_the_store_is_slow_is_stored_together_and_holds_up_no_report(
    link: Link, agent: PlayedAgent, inbox: Heard
) -> None:
    inbox.may_store.clear()
    inbox.wanted = BOTH_STREAMS
    await agent.welcome()
    for offset, at in ((0, 1.0), (2, 2.0), (4, 2.05), (6, 2.09), (8, 3.0)):
        agent.say(b"%02d" % offset, t="log", job_id="0-job", stream="job", offset=offset, at=at)
    agent.say(t="job", report=to_json(ended()))
    assert (await next_of(inbox.reports)).job_id == "0-job", "reports do not wait for logs"
    inbox.may_store.set()
    stored = [await next_of(inbox.logs) for _ in range(3)]
    assert [data for _, data in stored] == [b"00", b"020406", b"08"]


async def test_a_gap_is_heard_in_its_place_and_acknowledged(link: Link, agent: PlayedAgent, inbox: Heard) -> None:
    inbox.may_store.clear()
    inbox.wanted = BOTH_STREAMS
    await agent.welcome()
    place = {"job_id": "0-job", "stream": "job", "at": 1.0}
    agent.say(b"ab", t="log", offset=0, **place)
    agent.say(t="log_gap", offset=2, end=10, **place)
    agent.say(b"cd", t="log", offset=10, **place)
    agent.say(t="log_gap", offset=0, end=10, **{**place, "job_id": "0-other"})
    inbox.may_store.set()
    stored = [await next_of(inbox.logs) for _ in range(3)]
    assert [data for _, data in stored] == [b"ab", b"lost 8", b"cd"]
    heard = [await agent.hear() for _ in range(5)]
    assert [frame["offset"] for frame in heard if frame["t"] == "log_ack"] == [2, 10, 12]
    assert inbox.logs.empty(), "nobody asked for the other log"


async def test_no_more_is_taken_than_can_wait_to_be_stored(
    link: Link, agent: PlayedAgent, inbox: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "PRINTED_BYTES_MAX", 4)
    inbox.may_store.clear()
    inbox.wanted = BOTH_STREAMS
    await agent.welcome()
    for offset in range(0, 10, 5):
        agent.say(b"hello", t="log", job_id="0-job", stream="job", offset=offset, at=0.0)
    agent.say(t="ssh", port=22, host_key="key")
    for _ in range(20):
        await asyncio.sleep(0)
    assert inbox.ports.empty(), "one is being stored, one waits: no more is read"
    inbox.may_store.set()
    assert [data for _, data in [await next_of(inbox.logs), await next_of(inbox.logs)]] == [b"hello", b"hello"]
    assert await next_of(inbox.ports) == 22


async def test_a_store_that_fails_while_too_much_waits_does_not_leave_the_link_waiting(
    link: Link, agent: PlayedAgent, inbox: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "PRINTED_BYTES_MAX", 4)
    inbox.may_store.clear()
    inbox.wanted = BOTH_STREAMS
    await agent.welcome()
    for offset in range(0, 10, 5):
        agent.say(b"hello", t="log", job_id="0-job", stream="job", offset=offset, at=0.0)
    for _ in range(20):
        await asyncio.sleep(0)
    inbox.failures_to_store = 1
    inbox.may_store.set()
    assert (await agent.welcome())["t"] == "hello", "it connects anew"


async def test_bytes_of_a_log_that_was_not_asked_for_are_not_taken(
    link: Link, agent: PlayedAgent, inbox: Heard
) -> None:
    inbox.wanted = {("0-job", "job"): 0}
    await agent.welcome()
    for job_id in ("../../0-job", "0-other", "0-job"):
        agent.say(b"hello", t="log", job_id=job_id, stream="job", offset=0, at=0.0)
    assert await next_of(inbox.logs) == ("0-job", b"hello")
    agent.say(t="job", report=to_json(ended()))
    assert await next_of(inbox.reports) == ended()
    agent.say(b"more", t="log", job_id="0-job", stream="job", offset=5, at=0.0)
    agent.say(t="job", report=to_json(report()))
    assert await next_of(inbox.reports) == report()
    assert inbox.logs.empty(), "all of an ended job's log had been stored"


async def test_each_session_is_higher_than_the_one_before_and_than_all_of_earlier_servers(
    link: Link, agent: PlayedAgent
) -> None:
    first = await agent.welcome()
    agent.pipe.close()
    second = await agent.welcome()
    assert second["session"] > first["session"] > 7


async def test_a_message_that_is_too_long_for_the_agent_is_refused_and_the_connection_goes_on(
    link: Link, agent: PlayedAgent
) -> None:
    async def start(script: str) -> None:
        await link.start(JobOrder("0-job", "hello", script))

    await agent.welcome()
    with pytest.raises(BackendError, match="at most"):
        await start("x" * LINE_BYTES_MAX)
    asked = asyncio.create_task(start("true"))
    agent.say(t="reply", id=(await agent.hear())["id"])
    await asked


async def test_a_connection_that_is_doubted_is_made_anew(link: Link, agent: PlayedAgent) -> None:
    first = await agent.welcome()
    link.break_off()
    assert (await agent.welcome())["session"] > first["session"]


async def test_nothing_is_sent_on_a_connection_that_closes(link: Link, agent: PlayedAgent) -> None:
    await agent.welcome()
    asked = asyncio.create_task(link.call("stop", {"job_id": "0-job", "grace_s": 1.0}))
    agent.say(t="reply", id=(await agent.hear())["id"])
    await asked
    link.break_off()
    with pytest.raises(HostUnreachable, match="There is no connection to the agent now"):
        await link.call("stop", {"job_id": "0-job", "grace_s": 1.0})


@pytest.fixture
def pings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "PING_EVERY", timedelta(0))


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "PING_TIMEOUT_S", 0.01)


async def test_an_agent_is_asked_again_and_again_whether_it_is_there(
    pings_at_once: None, link: Link, agent: PlayedAgent
) -> None:
    await agent.welcome()
    older = {"code": "agent_refused", "message": "what is a ping?", "hint": None}
    for error in (None, older, None):
        ping = await agent.hear()
        assert ping["t"] == "ping"
        agent.say(t="reply", id=ping["id"], error=error)


async def test_an_agent_that_answers_no_ping_is_connected_to_anew(
    pings_at_once: None, little_patience: None, link: Link, agent: PlayedAgent
) -> None:
    await agent.welcome()
    first = agent.pipe
    await agent.welcome()
    assert agent.pipe is not first


async def test_what_no_database_takes_is_taken_out_of_what_an_agent_says(
    link: Link, agent: PlayedAgent, inbox: Heard
) -> None:
    await agent.welcome()
    agent.say(t="job", report=to_json(ended(message="a\0b \udcff é")))
    assert (await next_of(inbox.reports)).message == "a\ufffdb ? é"
    inbox.jobs.add("?")
    agent.pipe.close()
    await agent.welcome()
    agent.say(t="metrics", points=points_to_json({"\udcff": [Point(1.5, None, None)]}))
    assert await next_of(inbox.points) == {"?": [Point(1.5, None, None)]}


async def test_points_are_passed_on_as_they_come(link: Link, agent: PlayedAgent, inbox: Heard) -> None:
    said = {"0-job": [Point(1.5, 0.25, 64.0, (GpuPoint(97.0, None),)), Point(11.5, None, None)], "1-job": []}
    await agent.welcome()
    agent.say(t="metrics", points=points_to_json(said))
    assert await next_of(inbox.points) == said


@pytest.mark.parametrize(
    "nonsense",
    [
        {"0-job": [[-1, 0.5, 1.0, []]]},
        {"0-job": [[1e300, 0.5, 1.0, []]]},
        {"0-job": [[float("nan"), 0.5, 1.0, []]]},
        {"0-job": [["noon", 0.5, 1.0, []]]},
        {"0-job": [[1.0, -0.5, 1.0, []]]},
        {"0-job": [[1.0, 0.5, float("inf"), []]]},
        {"0-job": [[1.0, 0.5]]},
        {"0-job": [[1.0, 0.5, 1.0, [[1.0, 1.0]] * 65]]},
        {"0-job": 7},
    ],
)
async def test_points_that_are_none_harm_nothing_else(
    link: Link, agent: PlayedAgent, inbox: Heard, nonsense: object
) -> None:
    await agent.welcome()
    agent.say(t="metrics", points=nonsense)
    agent.say(t="job", report=to_json(report()))
    assert await next_of(inbox.reports) == report()
    assert inbox.points.empty()


async def test_agent_of_an_earlier_version_gets_no_field_that_it_can_do_without(link: Link, agent: PlayedAgent) -> None:
    for agent_says, path in (({"order": ORDER_FIELDS}, "/theirs"), ({}, None)):
        await agent.welcome(**agent_says)
        calling = asyncio.create_task(link.start(JobOrder("0-job", "hello", "true", path="/theirs")))
        start = await agent.hear()
        assert start["order"] == {"job_id": "0-job", "run_name": "hello", "script": "true"} | (
            {} if path is None else {"path": path}
        )
        calling.cancel()
        agent.pipe.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("repo_path", "/src"), ("python", "3.12"), ("service", Serving(8000)), ("service", Serving(8000, (Probe(),)))],
)
async def test_order_that_an_older_agent_would_carry_out_in_part_is_refused(
    link: Link, agent: PlayedAgent, name: str, value: object
) -> None:
    await agent.welcome()
    with pytest.raises(HostTrouble, match=f"does not know `{name}`") as caught:
        await link.start(replace(JobOrder("0-job", "hello", "true"), **{name: value}))
    assert caught.value.hint == "Restart the agent: its jobs continue"


async def test_agent_that_cannot_be_started_is_told_and_tried_again() -> None:
    class Broken:
        tries = 0

        async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            self.tries += 1
            raise HostTrouble("its agent does not start: SyntaxError") if self.tries < 3 else OSError("away")

    heard, connector = Heard(), Broken()
    task = asyncio.create_task(Link("i1", connector, heard, SystemClock(), 1, at_once()).run())
    async with asyncio.timeout(PATIENCE_S):
        said = [await heard.troubles.get() for _ in range(2)]
        while connector.tries < 4:  # noqa: ASYNC110 - from outside there is nothing to wait for
            await asyncio.sleep(0.01)
    task.cancel()
    assert said == ["its agent does not start: SyntaxError"] * 2 and heard.troubles.empty()
