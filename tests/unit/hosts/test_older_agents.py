"""Agents of earlier versions: what they once said is understood (`tests/e2e/agent/record.py` records it)."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dstack.errors import AgentRefused
from dstack.hosts.link import Link
from dstack.protocol.agent import Point, order_of
from tests.unit.hosts.test_link import Heard, PlayedAgent, agent, inbox, link, next_of

__all__ = ["agent", "inbox", "link"]

RECORDED = sorted(Path(__file__).parent.glob("agent-*.txt"))


def frames_of(recorded: Path) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Each frame with its sender and its payload."""
    for line in recorded.read_text().splitlines():
        sender, text = line.split(" ", 1)
        frame, end = json.JSONDecoder().raw_decode(text)
        yield sender, frame, json.loads(text[end:] or '""').encode("latin-1")


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
async def test_conversation_with_older_agent_is_understood(
    recorded: Path, link: Link, agent: PlayedAgent, inbox: Heard
) -> None:
    inbox.jobs = {"1-runs", "1-ends", "1-fails"}
    calls = list[asyncio.Task[None]]()
    for sender, frame, payload in frames_of(recorded):
        match frame:
            case {"t": "hello"}:
                if calls:
                    await asyncio.gather(*calls, return_exceptions=True)
                    assert await next_of(inbox.points)
                    inbox.wanted = {("1-runs", "job"): 6, ("1-runs", "agent"): 0}
                    agent.pipe.close()
                await agent.next_hello()
            case {"t": "start", "order": order}:
                calls.append(asyncio.create_task(link.start(order_of(order))))
                assert await heard_from_server(agent, "start") == frame["id"]
            case {"t": kind, "id": int(), **body} if sender == "server":
                calls.append(asyncio.create_task(link.call(kind, body)))
                assert await heard_from_server(agent, kind) == frame["id"]
            case _ if sender == "agent":
                agent.say(payload or None, **{name: value for name, value in frame.items() if name != "bytes"})
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in results if one is not None] == [AgentRefused], "no key was sent"
    assert await ends_of_three_jobs(inbox) == {"1-runs": "stopped", "1-ends": "exited", "1-fails": "start_failed"}
    assert b"hello\n" in {data for _, data in logs_of(inbox)}
    assert await next_of(inbox.points) == {"1-runs": [Point(1796044990.115, 0.0, 0.18)]}


async def heard_from_server(agent: PlayedAgent, kind: str) -> int:
    """Read on to a command. Returns its id."""
    while (frame := await agent.hear())["t"] != kind:
        pass
    return int(frame["id"])


async def ends_of_three_jobs(inbox: Heard) -> dict[str, str | None]:
    logged = dict[str, str | None]()
    while len(logged) < 3:
        report = await next_of(inbox.reports)
        if report.logged:
            logged[report.job_id] = report.end
    return logged


def logs_of(inbox: Heard) -> list[tuple[str, bytes]]:
    return [inbox.logs.get_nowait() for _ in range(inbox.logs.qsize())]


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_orders_of_an_older_server_are_understood(recorded: Path) -> None:
    orders = [order_of(frame["order"]) for _, frame, _ in frames_of(recorded) if frame["t"] == "start"]
    assert [(order.job_id, order.script, order.env) for order in orders] == [
        ("1-runs", "echo ready; exec sleep 1000", {}),
        ("1-ends", "echo hello; exit 3", {"NAME": "value"}),
        ("1-fails", "true", {}),
    ]
