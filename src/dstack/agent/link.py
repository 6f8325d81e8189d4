"""The agent's end of the connection to the server: who may command, what is commanded, and what is said back."""

import asyncio
import logging
import socket
from asyncio import Event, Future, StreamReader, StreamWriter, Task
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, TypeAlias

from dstack.agent.containers.sockets import probe_engine
from dstack.agent.endings import trouble_of
from dstack.agent.full_disk import in_words
from dstack.agent.jobs import Jobs
from dstack.agent.logs import Followers, Watcher
from dstack.agent.metrics.buffer import Buffer
from dstack.agent.wants import Wants
from dstack.agent.welcome import welcome_pages
from dstack.errors import AgentRefused, DstackError
from dstack.kit.clock import Clock
from dstack.protocol.agent import (
    FROM_SERVER,
    OLDEST_VERSION,
    VERSION,
    Acknowledged,
    Authorize,
    Blob,
    Engine,
    Follow,
    Forget,
    Hello,
    HostResources,
    JobReport,
    Malformed,
    Ping,
    ShutDown,
    Start,
    Stop,
    message_of,
    order_of,
    points_to_json,
    shared_version,
    to_json,
    what_to_do,
)
from dstack.protocol.frames import read_frame, write_frame

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
FAREWELL_TIMEOUT_S = 5.0
SERVERS_MAX = 100
LOOK_FOR_ENGINE_EVERY = timedelta(seconds=2)
PROBE_AGAIN_AFTER = timedelta(seconds=1)
POINTS_PER_FRAME = 1000
SEND_BUFFER_BYTES = 1 << 20
"""Room for a few frames of a log: both sides then wake up half as often. The system may give less."""

Frame = dict[str, Any]
Command: TypeAlias = Start | Stop | Forget | Authorize | Ping


class Link:
    """Serves the socket. At most one connection commands; a newer `hello` ends the one before."""

    def __init__(
        self,
        jobs: Jobs,
        wants: Wants,
        points: Buffer,
        probe: Callable[[], HostResources],
        clock: Clock,
        on_shutdown: Callable[[], None],
    ) -> None:
        """Args: `probe`: finds out what this host has; may block."""
        self.ssh: Frame | None = None
        """Port and host key of the SSH server, once it is ready."""
        self.jobs = jobs
        self.wants = wants
        self.points = points
        self.clock = clock
        self.watcher = Watcher()
        self.resources: Future[HostResources] = asyncio.ensure_future(self._probed(probe))
        self.on_shutdown = on_shutdown
        self._sessions: dict[str, int] = {}
        self._current: _Connection | None = None
        jobs.on_change = self._changed

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Live through one connection."""
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection = _Connection(self, reader, writer)
        try:
            await connection.run()
        except (OSError, TimeoutError) as error:
            log.info("The connection of the server has ended: %s", error or type(error).__name__)
        except asyncio.CancelledError:
            log.info("The connection of the server is closed")
        except Exception:  # a bug met by one connection must not end the agent
            log.exception("The connection of the server is closed")
        finally:
            await connection.close()
            if self._current is connection:
                self._current = None

    async def take_over(self, connection: "_Connection", hello: object) -> int:
        """Make this the connection that commands. Returns the version of the protocol that both sides speak.

        Raises:
            AgentRefused: a newer session has been seen, or the other side speaks other versions.
        """
        if not isinstance(hello, Hello):
            raise AgentRefused("The first message must be a `hello`")
        newest = hello.v if hello.newest is None else hello.newest
        version = shared_version(hello.v, newest)
        if version is None:
            spoken = f"This agent speaks versions {OLDEST_VERSION} to {VERSION} of the protocol"
            raise AgentRefused(f"{spoken}, and the server {hello.v} to {newest}", hint=what_to_do(newest))
        if hello.session < self._sessions.get(hello.server, hello.session):
            raise AgentRefused("A newer session of this server commands this agent")
        self._sessions[hello.server] = hello.session
        if len(self._sessions) > SERVERS_MAX:
            del self._sessions[next(iter(self._sessions))]
        former, self._current = self._current, connection
        if former is not None:
            former.fence()
            await former.closed.wait()
        return version

    def announce_ssh(self, ssh: Frame) -> None:
        """The SSH server is ready, perhaps at a new port."""
        self.ssh = ssh
        if self._current is not None:
            self._current.post({"t": "ssh", **ssh})

    async def _probed(self, probe: Callable[[], HostResources]) -> HostResources:
        """What this host has. No server is welcomed before that is known, so it is tried until it is."""
        while True:
            try:
                return await asyncio.to_thread(probe)
            except Exception:
                log.exception("The resources of this host could not be detected; retried in %s", PROBE_AGAIN_AFTER)
                await self.clock.sleep(PROBE_AGAIN_AFTER)

    async def look_for_engine(self) -> None:
        """Where this host has no container engine, tell the server once there is one."""
        resources = await asyncio.shield(self.resources)
        while resources.engine is None:
            await self.clock.sleep(LOOK_FOR_ENGINE_EVERY)
            if isinstance(engine := await asyncio.to_thread(probe_engine), Engine):
                resources = replace(resources, engine=engine, engine_problem="")
                self.resources = asyncio.get_running_loop().create_future()
                self.resources.set_result(resources)
                if self._current is not None:
                    self._current.post({"t": "engine", "engine": asdict(engine)})

    async def close(self) -> None:
        """End the connection and let go of everything."""
        if self._current is not None:
            self._current.fence()
            await self._current.closed.wait()
        self.resources.cancel()
        self.watcher.close()

    def _changed(self, report: JobReport) -> None:
        if self._current is not None:
            self._current.report(report)


class _Connection:
    def __init__(self, link: Link, reader: StreamReader, writer: StreamWriter) -> None:
        self.closed = Event()
        self._link = link
        self._reader = reader
        self._writer = writer
        self._fenced = False
        self._welcomed = False
        self._followers = Followers(link.jobs, link.watcher, self.send, link.clock)
        self._changed: dict[str, JobReport] = {}
        self._has_changed = Event()
        self._tasks: set[Task[None]] = set()

    async def run(self) -> None:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            received = await read_frame(self._reader)
        if received is None:
            return
        try:
            version = await self._link.take_over(self, message_of(FROM_SERVER, received[0]))
        except (AgentRefused, Malformed) as refusal:
            log.warning("Refused a connection: %s", refusal)
            await self.send({"t": "reply", "id": None, "error": _error_body(_as_refusal(refusal))})
            return
        await self._welcome(version)
        while not self._fenced and (received := await read_frame(self._reader)) is not None and not self._fenced:
            await self._take(*received)
            await self._writer.drain()

    async def send(self, frame: Frame, payload: bytes | None = None) -> None:
        """Put one frame on the link, and wait while that is full."""
        write_frame(self._writer, frame, payload)
        await self._writer.drain()

    def post(self, frame: Frame) -> None:
        """Put a small and rare frame on the link, in its turn."""
        if self._welcomed:
            write_frame(self._writer, frame)

    def report(self, report: JobReport) -> None:
        """Send this as soon as the link takes it; of one job only the latest counts."""
        self._changed[report.job_id] = report
        self._has_changed.set()

    def fence(self) -> None:
        """Obey no more."""
        self._fenced = True
        self._writer.transport.abort()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._followers.close()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        self.closed.set()

    async def _welcome(self, version: int) -> None:
        resources = await asyncio.shield(self._link.resources)
        self._changed.clear()
        # Written without a pause: what changes from now on is reported after it.
        for page in welcome_pages(version, resources, self._link.ssh, self._link.jobs.reports()):
            write_frame(self._writer, page)
        self._welcomed = True
        self._link.wants.ask = lambda blob_hash: self.post({"t": "want", "hash": blob_hash})
        self._link.wants.ask_again()
        self._spawn(self._send_reports(), "reports")
        self._spawn(self._send_points(), "points")
        await self._writer.drain()

    async def _send_reports(self) -> None:
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            changed, self._changed = self._changed, {}
            for report in changed.values():
                await self.send({"t": "job", "report": to_json(report)})

    async def _send_points(self) -> None:
        """A few at a time, each in its turn: reports and logs go between."""
        buffer, said, has_news = self._link.points, dict[str, float](), Event()
        buffer.on_news = has_news.set
        while True:
            while points := buffer.later_than(said, POINTS_PER_FRAME):
                await self.send({"t": "metrics", "points": points_to_json(points)})
                said |= {job_id: some[-1].at for job_id, some in points.items()}
                buffer.were_said(points)
            said = {job_id: at for job_id, at in said.items() if job_id in buffer}
            has_news.clear()
            await has_news.wait()

    async def _take(self, frame: Frame, payload: bytes) -> None:
        """Do what a frame asks for. A malformed one without an id ends the connection, as nobody waits for a reply."""
        try:
            message = message_of(FROM_SERVER, frame)
        except Malformed as error:
            if not isinstance(number := frame.get("id"), int):
                raise
            log.warning("The server sent %s", error)
            self._refuse(number, _as_refusal(error))
            return
        match message:
            case Follow():
                await self._followers.follow(message.job_id, message.stream, message.offset)
            case Acknowledged():
                self._followers.acknowledge(message.job_id, message.stream, message.offset)
            case Blob():
                self._link.wants.answer(message.hash, None if message.missing else payload)
            case ShutDown():
                self._spawn(self._shut_down(message.id), "shutdown")
            case Start() | Stop() | Forget() | Authorize() | Ping():
                self.post({"t": "reply", "id": message.id, **await self._obey(message)})
            case _:
                self._take_unknown(frame)

    def _take_unknown(self, frame: Frame) -> None:
        """Refuse a command of another version; its other messages are ignored."""
        log.warning("The server sent an unknown message `%.50s`", frame.get("t"))
        if isinstance(number := frame.get("id"), int):
            said = f"The agent does not know the command `{frame.get('t')!s:.50}`"
            self._refuse(number, AgentRefused(said, hint="Restart the agent"))

    def _refuse(self, number: int, refusal: AgentRefused) -> None:
        self.post({"t": "reply", "id": number, "error": _error_body(refusal)})

    async def _obey(self, command: Command) -> Frame:
        try:
            await self._command(command)
        except DstackError as error:
            return {"error": _error_body(error)}
        except (OSError, TypeError, ValueError) as error:
            name = type(command).__name__.lower()
            log.warning("The command `%s` was not carried out: %s", name, error)
            said = AgentRefused(f"The agent could not carry out `{name}`: {in_words(error)}")
            return {"error": _error_body(trouble_of(error) or said)}
        return {}

    async def _command(self, command: Command) -> None:
        jobs = self._link.jobs
        match command:
            case Start():
                await jobs.start(order_of(command.order))
            case Stop():
                await jobs.stop(command.job_id, command.grace_s)
            case Forget():
                await jobs.forget(command.job_id)
            case Authorize():
                await jobs.authorize(command.job_id, command.key)
            case Ping():
                pass  # the answer is all that is wanted

    async def _shut_down(self, number: int) -> None:
        await self._link.jobs.stop_all()
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                await self.send({"t": "reply", "id": number})
                # The server closes. If the agent did, a frame that the server sends meanwhile would cost it the reply.
                await self.closed.wait()
        except OSError as error:
            log.info("The server did not close the connection: %s", error or type(error).__name__)
        finally:
            self._link.on_shutdown()

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._fenced:
            log.info("The connection of the server is broken: %s", error)
            self.fence()


def _as_refusal(error: Exception) -> AgentRefused:
    return error if isinstance(error, AgentRefused) else AgentRefused(f"The server sent {error}")


def _error_body(error: DstackError) -> Frame:
    return {"code": error.code, "message": error.message, "hint": error.hint}
