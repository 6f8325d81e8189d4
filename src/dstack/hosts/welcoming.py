"""The first exchange on a connection: `hello`, and the pages of the welcome."""

import asyncio
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass
from typing import Any

import msgspec

from dstack.errors import HostTrouble
from dstack.hosts.inbox import Welcome
from dstack.hosts.reports import Reports
from dstack.protocol.agent import (
    FIRST_ORDER_FIELDS,
    FROM_AGENT,
    OLDEST_VERSION,
    VERSION,
    Malformed,
    MoreReports,
    Refusal,
    Reply,
    Welcomed,
    message_of,
)
from dstack.protocol.frames import read_frame, write_frame

VALUES_MAX = 100_000
"""In one frame of an agent: as Python objects they take about a hundred times this many bytes. A welcome of the first
version has half as many."""
WELCOME_TIMEOUT_S = 60.0
REPORTS_MAX = 200_000
"""In a welcome, of jobs on record or not."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """The outcome of the exchange."""

    welcome: Welcome
    order_fields: frozenset[str]
    """The fields of an order that the agent knows."""


async def read_message(reader: StreamReader) -> tuple[Any, dict[str, Any], bytes] | None:
    """Read the next message of an agent. Returns it, its frame and its payload; None at the end of the stream.

    The message is None if its type is unknown.

    Raises:
        ConnectionError: the stream broke in the middle of a frame, carries something else, or a frame is malformed.
    """
    received = await read_frame(reader, VALUES_MAX)
    if received is None:
        return None
    frame, payload = received
    return message_of(FROM_AGENT, frame, _converted), frame, payload


def _converted(kind: type, frame: dict[str, Any]) -> Any:
    return msgspec.convert(frame, kind)


async def greet(reader: StreamReader, writer: StreamWriter, session: int, reports: Reports) -> Greeted:
    """Send the hello, and read the whole welcome.

    Args:
        reports: selects the reports that are kept.

    Raises:
        HostTrouble: the agent refuses this server, or no version is shared.
        ConnectionError: there is no welcome.
        TimeoutError: it took too long.
    """
    hello = {"t": "hello", "v": OLDEST_VERSION, "newest": VERSION, "session": session, "server": "dstack"}
    write_frame(writer, hello)
    async with asyncio.timeout(WELCOME_TIMEOUT_S):
        first = await _first_page(reader)
        kept = {report.job_id: report for report in reports.select(first.jobs)}
        count, more = len(first.jobs), first.more
        while more:
            await asyncio.sleep(0)  # other links read between two pages
            page = await _next_page(reader)
            kept |= {report.job_id: report for report in reports.select(page.jobs)}
            count, more = count + len(page.jobs), page.more
            if count > REPORTS_MAX:
                raise Malformed(f"a welcome with more than {REPORTS_MAX} reports")
    port, key = (None, None) if first.ssh is None else (first.ssh.port, first.ssh.host_key)
    welcome = Welcome(first.resources, port, key, tuple(kept.values()))
    known = first.agent.order
    return Greeted(welcome, FIRST_ORDER_FIELDS if known is None else frozenset(known))


async def _first_page(reader: StreamReader) -> Welcomed:
    received = await read_message(reader)
    match received and received[0]:
        case Welcomed() as page if OLDEST_VERSION <= page.agent.v <= VERSION:
            return page
        case Welcomed() as page:
            spoken = f"its agent speaks version {page.agent.v} of the protocol"
            raise HostTrouble(f"{spoken}, and this server {OLDEST_VERSION} to {VERSION}", hint="Restart the agent")
        case Reply(error=Refusal() as refusal):
            said = ". ".join(filter(None, (refusal.message, refusal.hint)))
            raise HostTrouble(f"its agent refuses this server: {said}")
        case _:
            raise ConnectionError(f"the agent did not send a welcome: {received and received[1]!r:.200}")


async def _next_page(reader: StreamReader) -> MoreReports:
    received = await read_message(reader)
    match received and received[0]:
        case MoreReports() as page:
            return page
        case _:
            raise ConnectionError("the welcome broke off")
