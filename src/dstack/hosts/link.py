"""The server's end of the connection to one agent: held open, opened again after any break, one per instance.

Commands go down and are answered; reports and log bytes come up and go to an `Inbox`. Nothing is remembered here:
after a break the agent says again all that is true (`protocol.agent`).
"""

import asyncio
import itertools
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from dstack.errors import AgentRefused, BackendError, HostTrouble, HostUnreachable, error_of_code
from dstack.kit.clock import Clock
from dstack.protocol.agent import (
    FIRST_ORDER_FIELDS,
    LOG_STREAMS,
    LOG_TIME_EXACT_S,
    VERSION,
    Engine,
    HostResources,
    JobReport,
    Point,
    points_of,
    report_of,
    resources_of,
)
from dstack.protocol.frames import read_frame, write_frame

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
REPLY_TIMEOUT_S = 30.0
PING_EVERY = timedelta(minutes=1)
"""A host that is gone without a word, or an agent that is frozen, is noticed within this and `PING_TIMEOUT_S`."""
PING_TIMEOUT_S = 30.0
FIRST_RETRY = timedelta(milliseconds=50)
LONGEST_RETRY = timedelta(seconds=15)
CALLS_OPEN_MAX = 1000
PRINTED_BYTES_MAX = 32 << 20
"""With more log bytes of an instance waiting to be stored, nothing is read from its agent."""


@dataclass(frozen=True, slots=True)
class LogGap:
    """Bytes of a log stream that will never come."""

    offset: int
    end: int
    at: float
    """When they were printed at the latest, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """What an agent says first."""

    resources: HostResources
    ssh_port: int | None
    ssh_host_key: str | None
    reports: tuple[JobReport, ...]


@dataclass(slots=True)
class _Printed:
    """Bytes of a log stream that came one after the other at almost the same time."""

    offset: int
    at: float
    pieces: list[bytes]
    end: int

    def takes(self, offset: int, at: float) -> bool:
        """Whether more can be stored together with these; the log store has one time for both."""
        return offset == self.end and 0 <= at - self.at < LOG_TIME_EXACT_S


class Inbox(Protocol):
    """Who hears what agents say."""

    async def welcomed(self, instance_id: str, welcome: Welcome) -> dict[tuple[str, str], int]:
        """The agent answered. Returns from which byte on the log streams (job id, stream) are wanted."""
        ...

    async def disconnected(self, instance_id: str) -> None: ...

    async def not_started(self, instance_id: str, why: str) -> None:
        """The agent could not be started; it is tried again."""

    async def reported(self, instance_id: str, reports: list[JobReport]) -> None: ...

    async def logged(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        """Log bytes came. Returns how far the log is stored from now on."""
        ...

    async def lost(self, job_id: str, stream: str, gap: LogGap) -> int:
        """Log bytes will never come. Returns how far the log is stored from now on."""
        ...

    def measured(self, instance_id: str, points: Mapping[str, Sequence[Point]]) -> None:
        """Points of some jobs came; nobody waits until they are stored."""
        ...

    async def ssh_ready(self, instance_id: str, port: int, host_key: str) -> None: ...

    async def engine_found(self, instance_id: str, engine: Engine) -> None: ...

    async def blob(self, instance_id: str, hash: str) -> bytes | None: ...


class Connector(Protocol):
    """Knows the way to one host's agent."""

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open a connection; raises `HostTrouble` where the host cannot start the agent."""
        ...


class Link:
    """The connection to the agent of one instance."""

    def __init__(self, instance_id: str, connector: Connector, inbox: Inbox, clock: Clock, epoch: int) -> None:
        """Args: `epoch`: higher than any that another server had for this instance: the agent obeys no lower one."""
        self.instance_id = instance_id
        self._connector = connector
        self._order_fields = FIRST_ORDER_FIELDS
        self._inbox = inbox
        self._clock = clock
        self._writer: StreamWriter | None = None
        self._ready = asyncio.Event()
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._delay = FIRST_RETRY
        self._session = epoch
        self._noted_down = False
        self._reported: dict[str, JobReport] = {}
        """What the agent said and nobody has heard yet; of one job only the latest counts."""
        self._has_reported = asyncio.Event()
        self._printed: dict[tuple[str, str], list[_Printed | LogGap]] = {}
        """Log bytes that wait to be stored: where the store is slow, more is stored at once, and reports go on."""
        self._printed_bytes = 0
        self._has_printed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._followed: set[tuple[str, str]] = set()
        """The log streams that were asked for; bytes of others are not taken."""

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        while True:
            trouble = None
            try:
                await self._connect_and_serve()
            except (OSError, BackendError, TimeoutError) as error:
                log.info("No link to instance %s: %s", self.instance_id, error or type(error).__name__)
                trouble = error.message if isinstance(error, HostTrouble) else None
            except Exception:  # the next connection hears everything again, whatever went wrong in this one
                log.exception("The link to instance %s broke", self.instance_id)
                self._delay = LONGEST_RETRY
            await self._note_that_it_is_down(trouble)
            await self._clock.sleep(self._delay)
            self._delay = min(self._delay * 2, LONGEST_RETRY)

    def break_off(self) -> None:
        """Have the connection opened again; where there is none, that is under way."""
        if self._writer is not None:
            self._writer.close()

    async def _connect_and_serve(self) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await self._connector.connect()
        self._delay = FIRST_RETRY
        await self._serve(reader, writer)

    async def _note_that_it_is_down(self, trouble: str | None) -> None:
        try:
            if not self._noted_down:
                await self._inbox.disconnected(self.instance_id)
                self._noted_down = True
            if trouble is not None:
                await self._inbox.not_started(self.instance_id, trouble)
        except Exception:  # noted after the next attempt, should that fail too
            log.exception("The failure to reach instance %s could not be recorded", self.instance_id)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reported.clear()
        self._followed.clear()
        self._take_printed()
        pumps = [
            asyncio.create_task(self._pump(came, pass_on, writer), name=f"{what} of {self.instance_id}")
            for what, came, pass_on in (
                ("reports", self._has_reported, self._pass_on_reports),
                ("logs", self._has_printed, self._store_printed),
            )
        ]
        pumps.append(asyncio.create_task(self._ping(writer), name=f"pings of {self.instance_id}"))
        try:
            self._writer = writer
            self._session += 1
            write_frame(writer, {"t": "hello", "v": VERSION, "session": self._session, "server": "dstack"})
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                first = await read_frame(reader)
            if first is None or first[0].get("t") != "welcome":
                raise ConnectionError(f"the agent did not welcome us: {first and first[0]}")
            self._noted_down = False
            self._order_fields = _order_fields_of(first[0])
            wanted = await self._inbox.welcomed(self.instance_id, _welcome_of(first[0]))
            for (job_id, stream), offset in wanted.items():
                self._follow(job_id, stream, offset)
            self._ready.set()
            while (frame := await read_frame(reader)) is not None:
                await self._handle(*frame)
                await writer.drain()
        finally:
            self._ready.clear()
            self._writer = None
            for pump in pumps:
                pump.cancel()
            self._fail_calls()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _fail_calls(self) -> None:
        for call in self._calls.values():
            if not call.done():
                call.set_exception(HostUnreachable("The connection to the agent broke before it answered"))

    async def _handle(self, frame: dict[str, Any], payload: bytes) -> None:
        match frame:
            case {"t": "reply", "id": number}:
                if (call := self._calls.get(number)) is not None and not call.done():
                    call.set_result(frame)
            case {"t": "job", "report": body}:
                self._hear(report_of(body))
            case {"t": "log" | "log_gap", "job_id": str(job_id), "stream": str(stream)}:
                await self._hear_log((job_id, stream), frame, payload)
            case {"t": "metrics", "points": dict(points)}:
                self._hear_points(points)
            case {"t": "want", "hash": hash}:
                blob = await self._inbox.blob(self.instance_id, hash)
                self._send({"t": "blob", "hash": hash, "missing": blob is None}, blob)
            case _:
                await self._hear_of_host(frame)

    async def _hear_of_host(self, frame: dict[str, Any]) -> None:
        match frame:
            case {"t": "ssh", "port": port, "host_key": host_key}:
                await self._inbox.ssh_ready(self.instance_id, port, host_key)
            case {"t": "engine", "engine": dict(body)}:
                await self._inbox.engine_found(self.instance_id, Engine(**body))
            case _:
                log.warning("Instance %s sent an unexpected message `%s`", self.instance_id, frame.get("t"))

    def _hear(self, report: JobReport) -> None:
        self._reported[report.job_id] = report
        self._has_reported.set()
        if report.logged:
            self._followed.difference_update((report.job_id, stream) for stream in LOG_STREAMS)

    async def _hear_log(self, of: tuple[str, str], frame: dict[str, Any], payload: bytes) -> None:
        match frame:
            case {"t": "log", "offset": offset, "at": at} if of in self._followed:
                self._take_in(of, offset, at, payload)
                await self._has_room.wait()
            case {"t": "log_gap", "offset": offset, "end": end, "at": at} if of in self._followed:
                self._printed.setdefault(of, []).append(LogGap(offset, end, at))
                self._has_printed.set()
            case _:
                log.warning("Instance %s sent a part of a log that was not asked for", self.instance_id)

    def _hear_points(self, body: dict[str, Any]) -> None:
        try:
            self._inbox.measured(self.instance_id, points_of(body))
        except ValueError as error:  # all else that the agent says may be right
            log.warning("Instance %s sent metrics that cannot be read: %s", self.instance_id, error)

    def _take_in(self, of: tuple[str, str], offset: int, at: float, data: bytes) -> None:
        waiting = self._printed.setdefault(of, [])
        match waiting[-1:]:
            case [_Printed() as last] if last.takes(offset, at):
                last.pieces.append(data)
                last.end += len(data)
            case _:
                waiting.append(_Printed(offset, at, [data], offset + len(data)))
        self._printed_bytes += len(data)
        if self._printed_bytes > PRINTED_BYTES_MAX:
            self._has_room.clear()
        self._has_printed.set()

    def _take_printed(self) -> dict[tuple[str, str], list[_Printed | LogGap]]:
        printed, self._printed = self._printed, {}
        self._printed_bytes = 0
        self._has_room.set()
        return printed

    async def _pump(self, came: asyncio.Event, pass_on: Callable[[], Awaitable[None]], writer: StreamWriter) -> None:
        """Pass on whatever has come meanwhile, again and again."""
        try:
            while True:
                await came.wait()
                came.clear()
                await pass_on()
        except Exception:  # what was not stored is said again on the next connection
            log.exception("The reports of instance %s could not be stored", self.instance_id)
            self._delay = LONGEST_RETRY
            writer.close()
            self._has_room.set()  # who waits to read on has to see that there is nothing more to read

    async def _ping(self, writer: StreamWriter) -> None:
        """Break a connection off that only seems to be there."""
        try:
            while True:
                await self._clock.sleep(PING_EVERY)
                with suppress(AgentRefused):  # an older agent, which lives all the same
                    await self.call("ping", {}, timeout_s=PING_TIMEOUT_S)
        except HostUnreachable as error:
            log.warning("Instance %s is considered unreachable: %s", self.instance_id, error.message)
            writer.transport.abort()

    async def _pass_on_reports(self) -> None:
        latest, self._reported = self._reported, {}
        if latest:
            await self._inbox.reported(self.instance_id, list(latest.values()))

    async def _store_printed(self) -> None:
        await asyncio.gather(*(self._store(*of, printed) for of, printed in self._take_printed().items()))

    async def _store(self, job_id: str, stream: str, printed: list[_Printed | LogGap]) -> None:
        for one in printed:
            if isinstance(one, LogGap):
                stored = await self._inbox.lost(job_id, stream, one)
            else:
                stored = await self._inbox.logged(job_id, stream, one.offset, one.at, b"".join(one.pieces))
            self._send({"t": "log_ack", "job_id": job_id, "stream": stream, "offset": stored})

    def _send(self, frame: dict[str, Any], payload: bytes | None = None) -> None:
        if self._writer is None:
            raise HostUnreachable("There is no connection to the agent now")
        write_frame(self._writer, frame, payload)

    def _follow(self, job_id: str, stream: str, offset: int) -> None:
        self._followed.add((job_id, stream))
        self._send({"t": "follow", "job_id": job_id, "stream": stream, "offset": offset})

    def follow_new(self, job_id: str) -> None:
        """Have all streams of a job that was just started sent; what is stored of them already is skipped there."""
        for stream in LOG_STREAMS:
            self._follow(job_id, stream, 0)

    def _as_known(self, body: Mapping[str, object]) -> Mapping[str, object]:
        """A command without the fields of an order that an agent of an earlier version does not know."""
        if not isinstance(order := body.get("order"), Mapping):
            return body
        return {**body, "order": {name: value for name, value in order.items() if name in self._order_fields}}

    async def call(self, kind: str, body: Mapping[str, object], timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Have the agent do something and wait for its answer.

        Raises:
            HostUnreachable: no connection, or none long enough; the agent may or may not have done it.
            AgentRefused: the agent said no.
        """
        if len(self._calls) >= CALLS_OPEN_MAX:
            raise HostUnreachable(f"The agent has {CALLS_OPEN_MAX} unanswered commands")
        number = next(self._numbers)
        call: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._calls[number] = call
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
                self._send({"t": kind, "id": number, **self._as_known(body)})
                reply = await call
        except TimeoutError:
            raise HostUnreachable(f"The agent did not answer within {timeout_s:g} s") from None
        finally:
            del self._calls[number]
        if (error := reply.get("error")) is not None:
            known = error_of_code(error["code"], error["message"], error.get("hint"))
            raise known if isinstance(known, BackendError) else AgentRefused(error["message"], hint=error.get("hint"))


def _order_fields_of(frame: dict[str, Any]) -> frozenset[str]:
    match frame.get("agent"):
        case {"order": list(names)}:
            return frozenset(str(name) for name in names)
        case _:
            return FIRST_ORDER_FIELDS


def _welcome_of(frame: dict[str, Any]) -> Welcome:
    try:
        ssh = frame.get("ssh") or {}
        reports = tuple(report_of(body) for body in frame["jobs"])
        return Welcome(resources_of(frame["resources"]), ssh.get("port"), ssh.get("host_key"), reports)
    except (KeyError, TypeError) as error:
        raise ConnectionError(f"the agent's welcome is not understood: {error}") from error
