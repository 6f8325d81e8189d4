"""Made-up hosts: an agent that speaks the real protocol, and jobs that take their time and exit as they are told.

What a job does stands in its script: `simulate <seconds> <exit code> <log bytes>`; without that it ends at once and
well.
"""

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from dstack.errors import HostUnreachable
from dstack.protocol.agent import LOG_STREAMS, VERSION, HostResources, JobOrder, JobReport, order_of, to_json
from dstack.protocol.frames import read_frame, write_frame
from dstack.testing.streams import Pipe

_BEHAVIOUR = re.compile(r"simulate (\d+) (\d+) (\d+)")
LATENCY_S = 0.01
GRACEFUL_END_S = 0.5


@dataclass(slots=True)
class HostJob:
    """One job on a made-up host."""

    order: JobOrder
    report: JobReport
    log: bytes
    timer: asyncio.TimerHandle | None = None
    acknowledged: dict[str, int] = field(default_factory=dict)


class Host:
    """A machine with an agent; both outlive every server."""

    def __init__(self, key: str, resources: HostResources, boot_s: float, on_start: "OnStart | None" = None) -> None:
        self.key = key
        self.is_gone = False
        self.started: list[str] = []
        """Every job that ever began to run here, in order."""
        self.jobs: dict[str, HostJob] = {}
        self._forgotten: set[str] = set()
        self._resources = resources
        self._ready_at = asyncio.get_running_loop().time() + boot_s
        self._on_start = on_start
        self._connection: StreamWriter | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def running(self) -> list[HostJob]:
        """What runs now."""
        return [job for job in self.jobs.values() if job.report.state == "running"]

    @property
    def is_connected(self) -> bool:
        """Whether a server has a connection to the agent."""
        return self._connection is not None and not self._connection.is_closing()

    def connect(self) -> Pipe:
        """The server's end of a new connection to the agent.

        Raises:
            HostUnreachable: the machine is gone, or not up yet.
        """
        if self.is_gone or asyncio.get_running_loop().time() < self._ready_at:
            raise HostUnreachable(f"The host of `{self.key}` does not answer")
        ours, theirs = Pipe.pair(LATENCY_S)
        self.accept(*ours.streams())
        return theirs

    def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve a new connection, and cut the one before."""
        self.disconnect()
        self._connection = writer
        self._serving = asyncio.get_running_loop().create_task(self._serve(reader), name=f"agent of {self.key}")

    def disconnect(self) -> None:
        """Cut the connection there is."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def restart_agent(self, down_s: float) -> None:
        """The agent dies and comes back; jobs go on meanwhile."""
        self.disconnect()
        self._ready_at = asyncio.get_running_loop().time() + down_s

    def vanish(self) -> None:
        """The machine is gone, with everything on it."""
        self.is_gone = True
        self.disconnect()
        for job in self.jobs.values():
            if job.timer is not None:
                job.timer.cancel()
        self.jobs.clear()

    async def _serve(self, reader: StreamReader) -> None:
        try:
            while (frame := await read_frame(reader)) is not None:
                self._handle(frame[0])
        except ConnectionError:
            pass  # the server died in the middle of a frame

    def end_job(self, job: HostJob, exit_code: int) -> None:
        """Let a job exit now."""
        if job.timer is not None:
            job.timer.cancel()
        self._end(job, "exited", exit_code)

    def _handle(self, frame: dict[str, Any]) -> None:
        match frame:
            case {"t": "hello"}:
                reports = [to_json(job.report) for job in self.jobs.values()]
                self._send(
                    t="welcome", v=VERSION, agent=self.key, resources=to_json(self._resources), ssh=None, jobs=reports
                )
            case {"t": "follow", "job_id": job_id, "stream": stream, "offset": offset}:
                self._follow(job_id, stream, offset)
            case {"t": "log_ack", "job_id": job_id, "stream": stream, "offset": offset}:
                self._acknowledge(job_id, stream, offset)
            case {"t": kind, "id": number}:
                self._reply(number, self._command(kind, frame))

    def _command(self, kind: str, frame: dict[str, Any]) -> str | None:
        """Do it; returns why not."""
        match kind:
            case "start":
                return self._start(order_of(frame["order"]))
            case "stop":
                self._stop(frame["job_id"], frame["grace_s"])
            case "forget":
                return self._forget(frame["job_id"])
            case "shutdown":
                for job in list(self.running):
                    self._end(job, "stopped", 143)
        return None

    def _start(self, order: JobOrder) -> str | None:
        if order.job_id in self._forgotten:
            return "The job was stopped or forgotten before it was started here"
        if order.job_id in self.jobs:
            return None
        match = _BEHAVIOUR.search(order.script)
        seconds, code, log_bytes = map(int, match.groups()) if match else (0, 0, 0)
        loop = asyncio.get_running_loop()
        report = JobReport(order.job_id, "running", started_at=loop.time())
        job = self.jobs[order.job_id] = HostJob(order, report, b"x" * log_bytes)
        self.started.append(order.job_id)
        if self._on_start is not None:
            self._on_start(self, order.job_id, order.env["DSTACK_RUN_ID"], order.env["DSTACK_NODE_RANK"])
        limit_s = order.max_duration_s
        if limit_s is not None and limit_s < seconds:
            job.timer = loop.call_later(limit_s, self._end, job, "max_duration", 143)
        else:
            job.timer = loop.call_later(seconds, self._end, job, "exited", code)
        self._report(job)
        return None

    def _stop(self, job_id: str, grace_s: float) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            self._forgotten.add(job_id)
        elif job.report.state == "running":
            if job.timer is not None:
                job.timer.cancel()
            after_s = min(grace_s, GRACEFUL_END_S)
            job.timer = asyncio.get_running_loop().call_later(after_s, self._end, job, "stopped", 143)

    def _end(self, job: HostJob, end: str, code: int) -> None:
        if job.report.state == "ended":
            return
        job.report = replace(job.report, state="ended", end=end, exit_code=code, log_bytes=len(job.log))
        self._report(job)
        self._check_logged(job)

    def _forget(self, job_id: str) -> str | None:
        job = self.jobs.get(job_id)
        if job is not None and job.report.state != "ended":
            return "The job has not ended"
        self._forgotten.add(job_id)
        self.jobs.pop(job_id, None)
        return None

    def _follow(self, job_id: str, stream: str, offset: int) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            return
        data = job.log[offset:] if stream == "job" else b""
        if data:
            at = asyncio.get_running_loop().time()
            self._send(data, t="log", job_id=job_id, stream=stream, offset=offset, at=at)
        else:
            self._acknowledge(job_id, stream, offset)

    def _acknowledge(self, job_id: str, stream: str, offset: int) -> None:
        if (job := self.jobs.get(job_id)) is not None:
            job.acknowledged[stream] = offset
            self._check_logged(job)

    def _check_logged(self, job: HostJob) -> None:
        wanted = {"job": len(job.log), "agent": 0}
        whole = all(job.acknowledged.get(stream) == wanted[stream] for stream in LOG_STREAMS)
        if whole and job.report.state == "ended" and not job.report.logged:
            job.report = replace(job.report, logged=True)
            self._report(job)

    def _report(self, job: HostJob) -> None:
        self._send(t="job", report=to_json(job.report))

    def _reply(self, number: int, refusal: str | None) -> None:
        error = None if refusal is None else {"code": "agent_refused", "message": refusal, "hint": None}
        self._send(t="reply", id=number, error=error)

    def _send(self, payload: bytes | None = None, **frame: object) -> None:
        if self._connection is not None:
            write_frame(self._connection, frame, payload)


OnStart: TypeAlias = Callable[[Host, str, str, str], None]
"""Gets the host, the job's id, its run's id and its node's rank."""
