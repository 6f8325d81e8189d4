"""A small server's end of the link, and an agent in a folder of its own, for the tests of the agent."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from dstack.agent.paths import Home, socket_path
from dstack.kit.plain import from_plain
from dstack.protocol.agent import OLDEST_VERSION, VERSION, JobOrder, JobReport, Point, points_of, to_json
from dstack.protocol.frames import LINE_BYTES_MAX, read_frame, write_frame
from tests.patience import PATIENCE_S

J = f"job-{os.getpid()}"
"""A job's id. Ids are unique on a host, and tests run side by side on this one."""

sessions = count(1)


@dataclass
class Agent:
    """A real agent process in a folder of its own."""

    home: Path
    process: subprocess.Popen[bytes] | None = None
    inside: tuple[str, ...] = ()
    """A command line that runs another one, such as inside another network."""

    def start(self) -> None:
        ready, given = os.pipe()
        self.home.mkdir(exist_ok=True)
        program = (sys.executable, "-m", "dstack.agent")
        with open(self.home / "agent.log", "ab") as output:
            self.process = subprocess.Popen(
                [*self.inside, *program, "--home", str(self.home), "--ready-fd", str(given)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(given,),
                start_new_session=True,
            )
        os.close(given)
        readable, _, _ = select.select([ready], [], [], PATIENCE_S)
        said = os.read(ready, 16) if readable else b""
        os.close(ready)
        assert said == b"ready\n", (self.home / "agent.log").read_text()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal, and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def supervisor(self, job_id: str) -> int:
        """The pid of the supervisor of a job."""
        return int(json.loads(Home(self.home).job(job_id).pid.read_text())["pid"])


@dataclass
class Client:
    """What a server does, and what it has heard."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    first: dict[str, Any] = field(default_factory=dict)
    """The first page of the welcome."""
    welcome: dict[str, Any] = field(default_factory=dict)
    """The same, once all pages are here."""
    reports: dict[str, JobReport] = field(default_factory=dict)
    logs: dict[tuple[str, str], bytearray] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    replies: dict[int, dict[str, Any]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    ssh: dict[str, Any] | None = None
    closed: bool = False
    acknowledges: bool = True
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    numbers: Any = field(default_factory=lambda: count(1))

    def send(self, payload: bytes | None = None, **frame: Any) -> None:
        write_frame(self.writer, frame, payload)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: holds() or self.closed)
        assert holds(), (self.reports, self.welcome)

    async def call(self, t: str, **body: Any) -> dict[str, Any] | None:
        """Send a command. Returns its error, or None."""
        number = next(self.numbers)
        self.send(t=t, id=number, **body)
        await self.until(lambda: number in self.replies)
        return self.replies[number].get("error")

    async def start(self, job_id: str, script: str, **order: Any) -> None:
        """Start a job and follow its logs."""
        assert await self.call("start", order=to_json(order_for(job_id, script, **order))) is None
        self.follow(job_id)

    def follow(self, job_id: str) -> None:
        for stream in ("job", "agent"):
            self.send(t="follow", job_id=job_id, stream=stream, offset=len(self.log_of(job_id, stream)))

    def log_of(self, job_id: str, stream: str = "job") -> bytearray:
        return self.logs.setdefault((job_id, stream), bytearray())

    async def report(self, job_id: str, state: str = "ended") -> JobReport:
        """Wait until a job is in a state."""
        await self.until(lambda: job_id in self.reports and self.reports[job_id].state == state)
        return self.reports[job_id]

    async def logged(self, job_id: str) -> JobReport:
        """Wait until a job has ended and all of its logs are here."""
        await self.until(lambda: job_id in self.reports and self.reports[job_id].logged)
        return self.reports[job_id]

    async def line(self, job_id: str, text: bytes) -> None:
        """Wait until a job has printed something."""
        await self.until(lambda: text in self.log_of(job_id))

    async def hear(self) -> None:
        try:
            while (received := await read_frame(self.reader)) is not None:
                self._take(*received)
                async with self.changed:
                    self.changed.notify_all()
        except OSError:
            pass
        finally:
            self.closed = True
            async with self.changed:
                self.changed.notify_all()

    def _take(self, frame: dict[str, Any], payload: bytes) -> None:
        match frame:
            case {"t": "welcome" | "jobs"}:
                self._take_page(frame)
            case {"t": "job", "report": body}:
                self.reports[body["job_id"]] = from_plain(JobReport, body)
            case {"t": "metrics", "points": body}:
                self._add(points_of(body))
            case {"t": "reply", "id": number}:
                self.replies[number] = frame
            case {"t": "ssh"}:
                self.ssh = frame
            case {"t": "want", "hash": wanted}:
                self._give(wanted)
            case {"t": "log" | "log_gap", "job_id": job_id, "stream": stream, "offset": offset}:
                self._append(job_id, stream, offset, payload if frame["t"] == "log" else self._lost(frame))

    def _take_page(self, page: dict[str, Any]) -> None:
        self.reports |= {body["job_id"]: from_plain(JobReport, body) for body in page["jobs"]}
        if page["t"] == "welcome":
            self.first, self.ssh = page, page["ssh"]
        if not page["more"]:
            self.welcome = self.first

    def _add(self, points: dict[str, list[Point]]) -> None:
        for job_id, some in points.items():
            self.points.setdefault(job_id, []).extend(some)

    def _give(self, wanted: str) -> None:
        blob = self.blobs.get(wanted)
        self.send(t="blob", hash=wanted, payload=blob, **({} if blob is not None else {"missing": True}))

    def _lost(self, frame: dict[str, Any]) -> bytes:
        """Nothing in the place of what will never come."""
        self.gaps.append((frame["offset"], frame["end"]))
        return bytes(frame["end"] - frame["offset"])

    def _append(self, job_id: str, stream: str, offset: int, payload: bytes) -> None:
        known = self.log_of(job_id, stream)
        assert offset == len(known), "bytes lost or repeated"
        known += payload
        if self.acknowledges:
            self.send(t="log_ack", job_id=job_id, stream=stream, offset=len(known))


def order_for(job_id: str, script: str, **order: Any) -> JobOrder:
    return JobOrder(job_id=job_id, run_name="a-run", script=script, **order)


@asynccontextmanager
async def connected(agent: Agent, session: int | None = None, **known: Any) -> AsyncIterator[Client]:
    """A connection to an agent that has welcomed us."""
    reader, writer = await asyncio.open_unix_connection(socket_path(agent.home), limit=LINE_BYTES_MAX)
    client = Client(reader, writer, **known)
    hearing = asyncio.create_task(client.hear())
    number = next(sessions) if session is None else session
    client.send(t="hello", v=OLDEST_VERSION, newest=VERSION, session=number, server="test")
    try:
        await client.until(lambda: client.welcome)
        yield client
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
