"""Made-up hosts: an agent that speaks the real protocol, and jobs that take their time and exit as they are told.

A job prints at its start all that it has to say.
"""

import asyncio
import math
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dstack.domain.offers import Offer
from dstack.errors import HostUnreachable
from dstack.protocol.agent import LOG_FRAME_BYTES, LOG_STREAMS, JobOrder, JobReport, to_json
from dstack.protocol.frames import read_frame, write_frame
from dstack.testing.agents import NewerSpeaker, OlderSpeaker, Speaker
from dstack.testing.behaviours import Behaviour
from dstack.testing.faults import FailedStarts, OtherAgents, RepeatedMessages, SlowStarts
from dstack.testing.lies import lies
from dstack.testing.nature import Nature, Spells
from dstack.testing.streams import Pipe

LATENCY_S = 0.01
GRACEFUL_END_S = 0.5
OTHERS: tuple[type[Speaker], ...] = (OlderSpeaker, NewerSpeaker)
STOPPED = 143
"""The exit code of what was stopped."""


@dataclass(slots=True)
class HostJob:
    """One job on a made-up host."""

    order: JobOrder
    report: JobReport
    log: bytes = b""
    timer: asyncio.TimerHandle | None = None
    acknowledged: dict[str, int] = field(default_factory=dict)
    followed: set[str] = field(default_factory=set)
    """The log streams that the present server asked for."""

    @property
    def is_running(self) -> bool:
        """Whether its processes are there."""
        return self.report.state == "running"


class Host:
    """A machine with an agent; both outlive every server."""

    def __init__(self, key: str, offer: Offer, boot_s: float, nature: Nature) -> None:
        self.key = key
        self.offer = offer
        self.is_gone = False
        self.jobs: dict[str, HostJob] = {}
        self._forgotten: set[str] = set()
        """Jobs that were ended or forgotten before they came: they are refused."""
        self._session = 0
        """The highest of any server: one that is lower has been replaced."""
        self._nature = nature
        self._speaker = nature.chance.choice(OTHERS)() if nature.happens(OtherAgents) else Speaker()
        failing = nature.find(FailedStarts)
        self._fails = (
            None if failing is None else Spells(nature.chance, every_s=failing.every_s, lasts_s=failing.lasts_s)
        )
        self._ready_at_s = self._now_s() + boot_s
        self._connection: StreamWriter | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether its agent answers."""
        return not self.is_gone and self._now_s() >= self._ready_at_s

    def connect(self) -> Pipe:
        """The server's end of a new connection to the agent.

        Raises:
            HostUnreachable: the machine is gone, or not up yet.
        """
        if not self.is_up:
            raise HostUnreachable(f"The host of `{self.key}` does not answer")
        ours, theirs = Pipe.pair(LATENCY_S)
        self.accept(*ours.streams())
        return theirs

    def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve a new connection; once its server has said who it is, it replaces the one before."""
        serving = self._serve(reader, writer)
        self._serving = asyncio.get_running_loop().create_task(serving, name=f"agent of {self.key}")

    @property
    def running(self) -> list[HostJob]:
        """What runs now."""
        return [job for job in self.jobs.values() if job.is_running]

    @property
    def is_connected(self) -> bool:
        """Whether a server has a connection to the agent."""
        return self._connection is not None and not self._connection.is_closing()

    def end_job(self, job: HostJob, exit_code: int) -> None:
        """Let a job exit now."""
        self._end(job, "exited", exit_code)

    def let_in(self, job: HostJob, guests: int) -> None:
        """From now on so many are connected to a job."""
        job.report = replace(job.report, guests=guests, alone_since=None if guests else self._now_s())
        self._report(job)

    def set_ready(self, job: HostJob, is_ready: bool) -> None:
        """From now on a replica takes requests, or not."""
        if job.is_running and job.report.ready is not None:
            job.report = replace(job.report, ready=is_ready, unready_reason="" if is_ready else "it does not answer")
            self._report(job)

    def disconnect(self) -> None:
        """Cut the connection there is."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def lie(self, others: Sequence[str]) -> None:
        """Send what no agent should; `others` are the ids of jobs on other machines."""
        if self._connection is not None:
            for frame in lies(self._nature.chance, [job.report for job in self.jobs.values()], others):
                write_frame(self._connection, frame)

    def restart_agent(self, down_s: float) -> None:
        """The agent dies and comes back; jobs go on meanwhile."""
        self.disconnect()
        self._ready_at_s = max(self._ready_at_s, self._now_s() + down_s)

    def vanish(self) -> None:
        """The machine is gone, with everything on it."""
        self.is_gone = True
        self.disconnect()
        for job in self.jobs.values():
            self._set_timer(job, None)
            if job.is_running:
                self._nature.observer.job_ended(self.key, job.order, "vanished", None)
        self.jobs.clear()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while (frame := await read_frame(reader)) is not None:
                if frame[0]["t"] == "hello":
                    self._welcome(writer, frame[0])
                elif writer is self._connection:
                    self._handle(frame[0])
        except ConnectionError:
            pass  # the server died in the middle of a frame

    def _welcome(self, connection: StreamWriter, hello: dict[str, Any]) -> None:
        """A later server replaces the one before; an earlier one is not obeyed any more."""
        reports = [job.report for job in self.jobs.values()]
        pages = self._speaker.welcome(hello, self.offer.resources, reports)
        if hello["session"] < self._session or self.is_gone or pages is None:
            connection.close()
            return
        self._session = hello["session"]
        self._nature.observer.link_came(self.key)
        self.disconnect()
        for job in self.jobs.values():
            job.followed.clear()
        self._connection = connection
        for page in pages:
            write_frame(connection, page)

    def _handle(self, frame: dict[str, Any]) -> None:
        match frame:
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
                try:
                    order = self._speaker.order_of(frame["order"])
                except ValueError as error:
                    return str(error)
                return self._start(order)
            case "stop":
                self._stop(frame["job_id"], frame["grace_s"])
            case "forget":
                return self._forget(frame["job_id"])
            case "shutdown":
                for job in list(self.jobs.values()):
                    self._end(job, "stopped", STOPPED)
        return None

    def _start(self, order: JobOrder) -> str | None:
        if order.job_id in self._forgotten:
            return "The job was stopped or forgotten before it was started here"
        if order.job_id in self.jobs:
            return None
        job = self.jobs[order.job_id] = HostJob(order, JobReport(order.job_id, "preparing"))
        slow = self._nature.find(SlowStarts)
        if slow is None:
            self._begin(job)
        else:
            self._report(job)
            self._set_timer(job, self._nature.within(slow.at_most_s), self._begin, job)
        return None

    def _begin(self, job: HostJob) -> None:
        if self._fails is not None and self._fails.is_on(self._now_s()):
            self._end(job, "host_failed", None)
            return
        behaviour, code = self._nature.behaviours.next_of(job.order)
        job.log = behaviour.prints
        now_s = self._now_s()
        job.report = replace(job.report, state="running", started_at=now_s, alone_since=now_s)
        self._plan_readiness(job, behaviour)
        self._nature.observer.job_started(self.key, job.order)
        self._plan_end(job, behaviour, code)
        self._report(job)
        if "job" in job.followed:
            self._follow(job.order.job_id, "job", 0)

    def _plan_readiness(self, job: HostJob, behaviour: Behaviour) -> None:
        if behaviour.ready_after_s is not None and self._speaker.knows_services:
            job.report = replace(job.report, ready=False, unready_reason="it does not answer yet")
            if behaviour.ready_after_s < math.inf:
                asyncio.get_running_loop().call_later(behaviour.ready_after_s, self.set_ready, job, True)

    def _plan_end(self, job: HostJob, behaviour: Behaviour, code: int) -> None:
        limit_s = job.order.max_duration_s
        if limit_s is not None and limit_s < behaviour.takes_s:
            self._set_timer(job, limit_s, self._end, job, "max_duration", STOPPED)
        else:
            self._set_timer(job, behaviour.takes_s, self._end, job, "exited", code)

    def _set_timer(self, job: HostJob, after_s: float | None, *then: Any) -> None:
        """What is to happen to the job next, instead of what was to happen."""
        if job.timer is not None:
            job.timer.cancel()
        job.timer = None if after_s is None else asyncio.get_running_loop().call_later(after_s, *then)

    def _stop(self, job_id: str, grace_s: float) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            self._forgotten.add(job_id)
        elif job.is_running:
            self._set_timer(job, min(grace_s, GRACEFUL_END_S), self._end, job, "stopped", STOPPED)
        else:
            self._end(job, "stopped", STOPPED)

    def _end(self, job: HostJob, end: str, code: int | None) -> None:
        if job.report.state == "ended":
            return
        self._nature.observer.job_ended(self.key, job.order, end, code)
        self._set_timer(job, None)
        ended = replace(job.report, state="ended", end=end, exit_code=code, log_bytes=len(job.log))
        job.report = replace(ended, ready=None, unready_reason="")
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
        job.followed.add(stream)
        data = job.log[offset:] if stream == "job" else b""
        if not data:
            self._acknowledge(job_id, stream, offset)
        for start in range(0, len(data), LOG_FRAME_BYTES):
            piece, at_s = data[start : start + LOG_FRAME_BYTES], self._now_s()
            self._send(piece, t="log", job_id=job_id, stream=stream, offset=offset + start, at=at_s)

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
            times = 2 if self._nature.happens(RepeatedMessages) else 1
            for said in [*self._speaker.dressed(frame)] * times:
                write_frame(self._connection, said, payload if said["t"] == frame["t"] else None)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
