"""The server's end of the connection to one agent: held open, opened again after any break, one per instance.

Commands go down and are answered; reports and log bytes come up and go to an `Inbox`. Nothing is remembered here:
after a break the agent repeats all that is true (`protocol.agent`). What an agent sends is judged before it is used,
and all of it that is held is bounded: log bytes (`printed`), reports (`reports`), and messages of no use (`allowance`).
"""

import asyncio
import itertools
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from dstack.errors import AgentRefused, BackendError, HostTrouble, HostUnreachable
from dstack.hosts.allowance import Allowance
from dstack.hosts.calls import Calls, check_reply
from dstack.hosts.disowning import Disowned
from dstack.hosts.inbox import Connector, Inbox
from dstack.hosts.printed import Printed, PrintedLogs, Waiting
from dstack.hosts.reports import Reports
from dstack.hosts.welcoming import greet, read_message
from dstack.kit.clock import Clock
from dstack.kit.pauses import Pauses
from dstack.protocol.agent import (
    FIRST_ORDER_FIELDS,
    LOG_STREAMS,
    EngineFound,
    JobOrder,
    LogBytes,
    LogGap,
    Malformed,
    Measured,
    News,
    Reply,
    Want,
    WayIn,
    points_of,
    to_json,
    unknown_fields,
)
from dstack.protocol.frames import write_frame

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
REPLY_TIMEOUT_S = 30.0
PING_EVERY = timedelta(minutes=1)
"""A host that is gone without a word, or an agent that is frozen, is noticed within this and `PING_TIMEOUT_S`."""
PING_TIMEOUT_S = 30.0
FIRST_RETRY = timedelta(milliseconds=50)
LONGEST_RETRY = timedelta(seconds=15)
STEADY_AFTER_S = 15.0
"""After a connection that lasted so long, the pauses between attempts begin again with the shortest."""
FRAMES_PER_TURN = 32
"""So many are taken before other links have their turn."""


class Link:
    """The connection to the agent of one instance."""

    def __init__(
        self,
        instance_id: str,
        connector: Connector,
        inbox: Inbox,
        clock: Clock,
        epoch: int,
        pauses: Pauses,
    ) -> None:
        """Args:
        epoch: higher than any that another server had for this instance: the agent obeys no lower one.
        pauses: those between two connections.
        """
        self.instance_id = instance_id
        self._connector = connector
        self._order_fields = FIRST_ORDER_FIELDS
        self._inbox = inbox
        self._clock = clock
        self._writer: StreamWriter | None = None
        self._ready = asyncio.Event()
        self._calls = Calls()
        self._pauses = pauses
        self._session = epoch
        self._noted_down = False
        self._reports = Reports()
        self._printed = PrintedLogs()
        self._disowned = Disowned(self.call, self._reports.remove)
        self._allowance = Allowance()

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        while True:
            trouble = await self._live_once()
            await self._note_that_it_is_down(trouble)
            await self._clock.sleep(self._pauses.next())

    async def _live_once(self) -> str | None:
        """Live through one connection. Returns why it broke, where people can do something about it."""
        try:
            await self._connect_and_serve()
        except Malformed as error:
            log.warning("Instance %s is disconnected: its agent sent %s", self.instance_id, error)
            return f"its agent sent {error}"
        except HostTrouble as error:
            log.info("No link to instance %s: %s", self.instance_id, error)
            return ". ".join(filter(None, (error.message, error.hint)))
        except (OSError, BackendError, TimeoutError) as error:
            log.info("No link to instance %s: %s", self.instance_id, error or type(error).__name__)
        except Exception:  # the next connection hears everything again, whatever went wrong in this one
            log.exception("The link to instance %s broke", self.instance_id)
            self._pauses.extend()
        return None

    def break_off(self) -> None:
        """Have the connection opened again; where there is none, that is under way."""
        if self._writer is not None:
            self._writer.close()

    async def _connect_and_serve(self) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await self._connector.connect()
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
        self._printed.clear()
        pumps = [
            asyncio.create_task(self._pump(came, pass_on, writer), name=f"{what} of {self.instance_id}")
            for what, came, pass_on in (
                ("reports", self._reports.came, self._pass_on_reports),
                ("logs", self._printed.came, self._store_printed),
                ("strangers", self._disowned.came, self._disowned.perform),
            )
        ]
        pumps.append(asyncio.create_task(self._ping(writer), name=f"pings of {self.instance_id}"))
        try:
            self._writer = writer
            await self._begin(reader, writer)
            welcomed_s = _now_s()
            try:
                await self._take_all(reader, writer)
            finally:
                if _now_s() - welcomed_s > STEADY_AFTER_S:
                    self._pauses.reset()
        finally:
            self._ready.clear()
            self._writer = None
            for pump in pumps:
                pump.cancel()
            self._calls.fail()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _begin(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Exchange greetings, and ask for what is missing here."""
        self._session += 1
        self._allowance.begin_minute()
        self._disowned.begin()
        self._reports.begin(await self._inbox.jobs_on(self.instance_id))
        greeted = await greet(reader, writer, self._session, self._reports)
        self._noted_down = False
        self._order_fields = greeted.order_fields
        wanted, strangers = await self._inbox.welcomed(self.instance_id, greeted.welcome)
        for (job_id, stream), offset in wanted.items():
            self._follow(job_id, stream, offset)
        self._disowned.add(strangers)
        self._ready.set()

    async def _take_all(self, reader: StreamReader, writer: StreamWriter) -> None:
        for number in itertools.count(1):
            received = await read_message(reader)
            if received is None:
                return
            message, frame, payload = received
            if not await self._take(message, payload):
                self._allowance.spend(frame, payload)
            await writer.drain()
            if number % FRAMES_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _take(self, message: Any, payload: bytes) -> bool:
        """Pass a message on. Returns whether it was of use."""
        match message:
            case Reply():
                return self._calls.answer(message)
            case News():
                return self._take_news(message)
            case LogBytes() | LogGap():
                is_wanted = self._printed.take_in(message, payload)
                await self._printed.room()
                return is_wanted
            case Measured():
                return self._take_points(message)
            case Want():
                blob = await self._inbox.blob(self.instance_id, message.hash)
                self._send({"t": "blob", "hash": message.hash, "missing": blob is None}, blob)
                return True
            case _:
                return await self._take_of_host(message)

    async def _take_of_host(self, message: Any) -> bool:
        """Pass on what comes once in the life of an agent; it is not free, as each of these is written down."""
        match message:
            case WayIn():
                await self._inbox.ssh_ready(self.instance_id, message.port, message.host_key)
            case EngineFound():
                await self._inbox.engine_found(self.instance_id, message.engine)
        return False

    def _take_news(self, news: News) -> bool:
        if news.report.logged:
            self._printed.leave(news.report.job_id)
        return self._reports.take_in(news.report)

    def _take_points(self, measured: Measured) -> bool:
        try:
            points = self._reports.points_taken(points_of(measured.points))
        except ValueError as error:  # all else that the agent reports may be right
            log.warning("Instance %s sent metrics that cannot be read: %s", self.instance_id, error)
            return False
        if points:
            self._inbox.measured(self.instance_id, points)
        return bool(points)

    async def _pump(self, came: asyncio.Event, pass_on: Callable[[], Awaitable[None]], writer: StreamWriter) -> None:
        """Pass on whatever has come meanwhile, again and again."""
        try:
            while True:
                await came.wait()
                came.clear()
                await pass_on()
        except HostUnreachable as error:
            log.info("Instance %s is connected to again: %s", self.instance_id, error.message)
        except Exception:  # what was not stored is reported again on the next connection
            log.exception("The reports of instance %s could not be stored", self.instance_id)
            self._pauses.extend()
        writer.close()
        self._printed.give_up()

    async def _ping(self, writer: StreamWriter) -> None:
        """Break a connection off that only seems to be there, or that has more to report than it took."""
        try:
            while True:
                await self._clock.sleep(PING_EVERY)
                self._allowance.begin_minute()
                self._reports.begin_minute()
                self._disowned.begin_minute()
                with suppress(AgentRefused):  # an older agent, which lives all the same
                    await self.call("ping", {}, timeout_s=PING_TIMEOUT_S)
                if self._reports.has_left_out:
                    log.info(
                        "Instance %s is connected to again, for the jobs left out of its welcome", self.instance_id
                    )
                    writer.close()
        except HostUnreachable as error:
            log.warning("Instance %s is considered unreachable: %s", self.instance_id, error.message)
            writer.transport.abort()

    async def _pass_on_reports(self) -> None:
        if latest := self._reports.take_out():
            self._disowned.add(await self._inbox.reported(self.instance_id, latest))

    async def _store_printed(self) -> None:
        waiting: Waiting = self._printed.take_out()
        await asyncio.gather(*(self._store(*of, printed) for of, printed in waiting.items()))
        self._printed.stored()

    async def _store(self, job_id: str, stream: str, printed: list[Printed | LogGap]) -> None:
        for one in printed:
            if isinstance(one, LogGap):
                stored = await self._inbox.lost(job_id, stream, one)
            else:
                stored = await self._inbox.logged(job_id, stream, one.offset, one.at, b"".join(one.pieces))
            self._send({"t": "log_ack", "job_id": job_id, "stream": stream, "offset": stored})

    def _send(self, frame: dict[str, Any], payload: bytes | None = None) -> None:
        if self._writer is None or self._writer.is_closing():
            raise HostUnreachable("There is no connection to the agent now")
        write_frame(self._writer, frame, payload)

    def _follow(self, job_id: str, stream: str, offset: int) -> None:
        self._printed.follow((job_id, stream))
        self._send({"t": "follow", "job_id": job_id, "stream": stream, "offset": offset})

    async def start(self, order: JobOrder) -> None:
        """Have the agent start a job, and send all of its log streams; it skips what is stored of them already.

        Raises:
            HostUnreachable: no connection, or none long enough; the agent may or may not have done it.
            HostTrouble: the agent is older than the server, and does not know all that the order has.
            AgentRefused: the agent refused.
        """
        self._reports.add(order.job_id)
        await self.call("start", {"order": order})
        for stream in LOG_STREAMS:
            self._follow(order.job_id, stream, 0)

    async def shut_down(self, grace_s: float) -> None:
        """Have the agent end its jobs, each with its grace, and itself; it answers once they have ended.

        Once the agent was reached, a connection that breaks is waited for: the jobs still have their grace.

        Args:
            grace_s: the longest grace of its jobs.

        Raises:
            HostUnreachable: the agent did not answer in time.
            AgentRefused: the agent refused.
        """
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError:
            raise HostUnreachable(f"The agent did not answer within {REPLY_TIMEOUT_S:g} s") from None
        until_s = _now_s() + grace_s + REPLY_TIMEOUT_S
        while True:
            try:
                return await self.call("shutdown", {}, timeout_s=until_s - _now_s())
            except HostUnreachable:
                if _now_s() >= until_s:
                    raise
                await self._clock.sleep(FIRST_RETRY)

    async def forget(self, job_id: str) -> None:
        """Have the agent remove an ended job. Raises as `call` does."""
        await self.call("forget", {"job_id": job_id})
        self._reports.remove(job_id)

    def _as_known(self, body: Mapping[str, object]) -> Mapping[str, object]:
        """Return a command as this agent knows it.

        An agent of an earlier version gets an order without the fields that it does not know and can do without.
        """
        if not isinstance(order := body.get("order"), JobOrder):
            return body
        if unknown := unknown_fields(order, self._order_fields):
            raise HostTrouble(
                f"The agent of the machine is older than the server, and does not know `{unknown[0]}`",
                hint="Restart the agent: its jobs continue",
            )
        return {**body, "order": {name: value for name, value in to_json(order).items() if name in self._order_fields}}

    async def call(self, kind: str, body: Mapping[str, object], timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Have the agent do something and wait for its answer.

        Raises:
            HostUnreachable: no connection, or none long enough; the agent may or may not have done it.
            AgentRefused: the agent refused.
        """
        with self._calls.one() as (number, call):
            try:
                async with asyncio.timeout(timeout_s):
                    await self._ready.wait()
                    self._send({"t": kind, "id": number, **self._as_known(body)})
                    reply = await call
            except TimeoutError:
                raise HostUnreachable(f"The agent did not answer within {timeout_s:g} s") from None
        check_reply(reply)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
