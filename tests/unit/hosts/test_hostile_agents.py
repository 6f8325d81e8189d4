"""An agent that sends what none should: its connection ends, or it is ignored, and nothing grows without a bound."""

import asyncio
import json
import random
from datetime import timedelta
from typing import Any

import pytest

from dstack.hosts import allowance, printed, welcoming
from dstack.hosts import link as links
from dstack.hosts.inbox import Disowning
from dstack.hosts.link import Link
from dstack.hosts.printed import PIECE_BYTES, PRINTED_BYTES_MAX
from dstack.hosts.reports import LAYERS_MAX, POINTS_PER_MINUTE_MAX, STRANGERS_MAX, Reports
from dstack.kit.clock import SystemClock
from dstack.kit.pauses import Pauses
from dstack.protocol.agent import PROSE_CHARS_MAX, JobReport, Layer, Point, to_json
from tests.making import ended, report
from tests.unit.hosts.test_link import BOTH_STREAMS, Heard, PlayedAgent, agent, inbox, link, next_of

__all__ = ["agent", "inbox", "link"]

LOG = {"job_id": "0-job", "stream": "job", "offset": 0, "at": 1.0}


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "job"},
        {"t": "job", "report": []},
        {"t": "job", "report": {"job_id": 7, "state": "running"}},
        {"t": "job", "report": {"job_id": "x" * 37, "state": "running"}},
        {"t": "job", "report": {"job_id": "0-job", "state": "running", "exit_code": -1}},
        {"t": "job", "report": {"job_id": "0-job", "state": "running", "exit_code": 256}},
        {"t": "job", "report": {"job_id": "0-job", "state": "running", "started_at": float("nan")}},
        {"t": "job", "report": {"job_id": "0-job", "state": "running", "started_at": 10**400}},
        {"t": "job", "report": {"job_id": "0-job", "state": "running", "working_dir": "x" * 5000}},
        {"t": "job", "report": {"job_id": "0-job", "state": "running", "layers": [{"id": "x"}]}},
        {
            "t": "job",
            "report": {
                "job_id": "0-job",
                "state": "running",
                "layers": [{"id": "x" * 200, "got_bytes": 1, "size_bytes": 1, "ready": True}],
            },
        },
        {"t": "log", **LOG, "offset": -1},
        {"t": "log", **LOG, "offset": "0"},
        {"t": "log", **LOG, "offset": 1 << 60},
        {"t": "log", **LOG, "at": None},
        {"t": "log", **LOG, "at": 1e12},
        {"t": "log_gap", **LOG},
        {"t": "reply", "id": "one"},
        {"t": "reply", "id": 1, "error": "no"},
        {"t": "ssh", "port": "22", "host_key": "key"},
        {"t": "ssh", "port": 65536, "host_key": "key"},
        {"t": "engine", "engine": {"name": "docker"}},
        {"t": "want", "hash": 7},
    ],
    ids=lambda frame: json.dumps(frame)[:60],
)
async def test_malformed_frame_ends_the_connection_with_a_reason(
    link: Link, agent: PlayedAgent, inbox: Heard, frame: dict[str, Any]
) -> None:
    await agent.welcome()
    agent.say(**frame)
    assert f"its agent sent a malformed message `{frame['t']}`" in await next_of(inbox.troubles)
    await agent.welcome()


@pytest.mark.parametrize("line", [b"garbage\n", b"[1]\n", b'{"t":"log","bytes":-1}\n', b"[" * 100_000 + b"\n"])
async def test_garbage_ends_the_connection(link: Link, agent: PlayedAgent, line: bytes) -> None:
    first = await agent.welcome()
    agent.pipe.write(line)
    assert (await agent.welcome())["session"] > first["session"]


async def test_line_without_end_is_given_up_at_its_bound(link: Link, agent: PlayedAgent) -> None:
    first = await agent.welcome()
    for _ in range(3):
        agent.pipe.write(b"x" * (1 << 20))
    assert (await agent.welcome())["session"] > first["session"]


async def test_line_of_very_many_values_is_not_read(link: Link, agent: PlayedAgent) -> None:
    first = await agent.welcome()
    agent.pipe.write(b'{"t":"x","of":[' + b"[]," * (welcoming.VALUES_MAX // 2) + b"[]]}\n")
    assert (await agent.welcome())["session"] > first["session"]


async def test_unknown_types_and_fields_are_ignored(link: Link, agent: PlayedAgent, inbox: Heard) -> None:
    await agent.welcome(colours=3)
    agent.say(t="weather", sun=True)
    agent.say(t="job", report={**to_json(report()), "mood": "good"}, mood="good")
    assert await next_of(inbox.reports) == report()


async def test_messages_without_use_end_the_connection_once_they_are_many(
    link: Link, agent: PlayedAgent, inbox: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "MESSAGES_MAX", 20)
    await agent.welcome()
    for number in range(21):
        kind = ("weather", "reply", "log", "log_gap", "ssh")[number % 5]
        agent.say(b"bytes", t=kind, id=number, port=number, host_key="key", end=9, **{**LOG, "job_id": "0-other"})
    assert "too many messages of no use" in await next_of(inbox.troubles)


async def test_pause_grows_while_each_connection_ends_by_a_malformed_frame(agent: PlayedAgent, inbox: Heard) -> None:
    class Clock(SystemClock):
        pauses: list[timedelta] = []

        async def sleep(self, span: timedelta) -> None:
            if span == links.PING_EVERY:
                await super().sleep(span)
            self.pauses.append(span)

    pauses = Pauses(links.FIRST_RETRY, links.LONGEST_RETRY, random.Random(1).random)
    running = asyncio.create_task(Link("0-instance", agent, inbox, Clock(), 1, pauses).run())
    for _ in range(12):
        await agent.welcome()
        agent.say(t="want")
    await agent.next_hello()
    running.cancel()
    assert all(before < after for before, after in zip(Clock.pauses, Clock.pauses[2:9], strict=False))
    assert max(Clock.pauses) > links.LONGEST_RETRY / 2


async def test_reports_of_other_jobs_are_bounded(link: Link, agent: PlayedAgent, inbox: Heard) -> None:
    await agent.welcome()
    for number in range(3 * STRANGERS_MAX):
        agent.say(t="job", report=to_json(ended(job_id=f"no-{number}", message="x" * 1000)))
        if number % 100 == 0:
            await asyncio.sleep(0)
    heard = set()
    agent.say(t="job", report=to_json(report(job_id="1-job")))
    while (said := await next_of(inbox.reports)).job_id != "1-job":
        heard.add(said.job_id)
        assert said == JobReport(said.job_id, "ended"), "no more of a stranger is held"
    assert len(heard) == STRANGERS_MAX


def test_jobs_left_out_of_a_welcome_are_heard_on_the_next_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.hosts.reports.STRANGERS_MAX", 1)
    reports = Reports()
    reports.begin(["0-job"])
    assert reports.select([report(), ended(job_id="no-1"), ended(job_id="no-2")]) == [
        report(),
        JobReport("no-1", "ended"),
    ]
    assert reports.has_left_out
    reports.remove("no-1")
    reports.begin(["0-job"])
    assert reports.select([ended(job_id="no-2")]) == [JobReport("no-2", "ended")] and not reports.has_left_out


async def test_job_that_is_not_on_record_is_ended_and_then_removed(
    link: Link, agent: PlayedAgent, inbox: Heard
) -> None:
    inbox.strangers = {"no-1": Disowning.STOP, "no-2": Disowning.FORGET}
    await agent.welcome()
    asked = {}
    for _ in range(2):
        command = await agent.hear()
        asked[command["job_id"]] = command["t"]
        agent.say(t="reply", id=command["id"])
    assert asked == {"no-1": "stop", "no-2": "forget"}


def test_texts_are_cut_and_layers_flap_within_bounds() -> None:
    reports = Reports()
    reports.begin(["0-job"])
    for number in range(LAYERS_MAX + 2):
        layer = Layer(f"{number % 2}", 1, 1, True)
        reports.take_in(report(state="preparing", layers=(layer,)))
    assert [one.layers for one in reports.take_out()] == [()], "each change of these would have been an event"


async def test_text_for_people_is_cut(link: Link, agent: PlayedAgent, inbox: Heard) -> None:
    await agent.welcome()
    agent.say(t="job", report=to_json(ended(message="x" * 100_000)))
    assert (await next_of(inbox.reports)).message == "x" * (PROSE_CHARS_MAX - 1) + "…"


def test_points_of_other_jobs_and_too_many_are_left_out() -> None:
    reports = Reports()
    reports.begin(["0-job"])
    some = [Point(float(number), None, None) for number in range(POINTS_PER_MINUTE_MAX)]
    assert reports.points_taken({"0-job": some, "0-other": some}) == {"0-job": some}
    assert reports.points_taken({"0-job": some[:1]}) == {}
    reports.begin_minute()
    assert reports.points_taken({"0-job": some[:1]}) == {"0-job": some[:1]}


async def test_gaps_and_small_pieces_count_against_the_room_for_logs(
    link: Link, agent: PlayedAgent, inbox: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "PRINTED_BYTES_MAX", 10 * PIECE_BYTES)
    inbox.wanted = BOTH_STREAMS
    inbox.may_store.clear()
    await agent.welcome()
    agent.say(b"x", t="log", **LOG)
    await asyncio.sleep(0)
    for number in range(50):
        agent.say(t="log_gap", **{**LOG, "offset": number, "end": number + 1})
    for _ in range(200):
        await asyncio.sleep(0)
    assert link._printed.bytes_held <= 11 * PIECE_BYTES
    inbox.may_store.set()
    for _ in range(51):
        await next_of(inbox.logs)


async def test_agent_that_sends_all_it_can_holds_no_more_than_its_bounds(
    link: Link, agent: PlayedAgent, inbox: Heard
) -> None:
    inbox.wanted = BOTH_STREAMS
    inbox.may_store.clear()
    await agent.welcome()
    data, offset = bytes(1 << 20), 0
    for number in range(64):
        agent.say(data, t="log", **{**LOG, "offset": offset, "at": float(number)})
        offset += len(data)
        await asyncio.sleep(0)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert link._printed.bytes_held <= PRINTED_BYTES_MAX + len(data) + PIECE_BYTES
    inbox.may_store.set()


async def test_welcome_of_very_many_reports_comes_in_pages(link: Link, agent: PlayedAgent, inbox: Heard) -> None:
    inbox.jobs = {f"job-{number}" for number in range(30_000)}
    await agent.welcome()
    agent.pipe.close()
    await agent.next_hello()
    resources = {"cpus": 1, "memory_mib": 1, "disk_mib": 1}
    agent.say(t="welcome", agent={"v": 2}, resources=resources, jobs=[], more=True)
    for start in range(0, 30_000, 1000):
        page = [to_json(report(job_id=f"job-{start + number}")) for number in range(1000)]
        agent.say(t="jobs", jobs=page, more=start < 29_000)
    ping = asyncio.create_task(link.call("ping", {}))
    agent.say(t="reply", id=(await agent.hear())["id"])
    await ping
    assert {one.job_id for one in inbox.welcome.reports} == inbox.jobs


async def test_endless_welcome_is_given_up(
    link: Link, agent: PlayedAgent, inbox: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(welcoming, "REPORTS_MAX", 10)
    await agent.next_hello()
    resources = {"cpus": 1, "memory_mib": 1, "disk_mib": 1}
    agent.say(t="welcome", agent={"v": 2}, resources=resources, jobs=[], more=True)
    for _ in range(11):
        agent.say(t="jobs", jobs=[to_json(report())], more=True)
    assert "a welcome with more than 10 reports" in await next_of(inbox.troubles)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            {"t": "reply", "id": None, "error": {"code": "agent_refused", "message": "Versions 3 to 4", "hint": "Do"}},
            "its agent refuses this server: Versions 3 to 4. Do",
        ),
        (
            {"t": "welcome", "agent": {"v": 4}, "resources": {"cpus": 1, "memory_mib": 1, "disk_mib": 1}},
            "its agent speaks version 4 of the protocol, and this server 1 to 2. Restart the agent",
        ),
    ],
)
async def test_agent_two_versions_apart_is_refused_with_what_to_do(
    link: Link, agent: PlayedAgent, inbox: Heard, answer: dict[str, Any], reason: str
) -> None:
    hello = await agent.next_hello()
    assert (hello["v"], hello["newest"]) == (1, 2)
    agent.say(**answer)
    assert await next_of(inbox.troubles) == reason
