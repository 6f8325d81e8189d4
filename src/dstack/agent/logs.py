"""Sends the logs of jobs: reads files by byte offset as they grow, and never lets a job wait for a reader."""

import asyncio
import errno
import logging
import os
from asyncio import Event, Task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from dstack.agent.inotify import Inotify
from dstack.agent.jobs import Jobs
from dstack.agent.lives import Job
from dstack.kit.clock import Clock
from dstack.protocol.agent import LOG_FRAME_BYTES, LOG_STREAMS, LOG_WINDOW_BYTES

log = logging.getLogger(__name__)

GATHER_S = 0.05
STREAMING_S = 0.05
"""What comes within this time after the last bytes is taken for a stream of output,"""
STREAM_GATHER_S = 0.01
"""and is gathered for so long: a few large frames cost a fraction of many small ones."""
POLL_S = 0.05
"""How often a growing log is looked at on a system that does not tell."""
READ_AGAIN_AFTER = timedelta(seconds=1)
"""After a log could not be read: perhaps too many files are open at this moment."""

Send = Callable[[dict[str, object], bytes | None], Awaitable[None]]
"""Puts one frame on the link and waits while that is full."""


class Watcher:
    """Waits for files to grow: by inotify where there is any, by looking again where not."""

    def __init__(self) -> None:
        try:
            self.inotify: Inotify | None = Inotify()
        except OSError as error:
            log.warning("Logs are polled: %s", error)
            self.inotify = None

    def watch(self, path: Path, callback: Callable[[], None]) -> int | None:
        """Call back once, after the next write. None where the system does not tell of it."""
        try:
            return None if self.inotify is None else self.inotify.watch(path, callback)
        except OSError as error:
            log.warning("This log is polled: %s", error)
            return None

    def unwatch(self, watch: int, callback: Callable[[], None]) -> None:
        """Do not call back any more."""
        if self.inotify is not None:
            self.inotify.unwatch(watch, callback)

    def close(self) -> None:
        """Watch no more."""
        if self.inotify is not None:
            self.inotify.close()


class _Follower:
    """Sends one stream of one job, from an offset on, within the window."""

    def __init__(self, job: Job, stream: str, offset: int, send: Send, clock: Clock) -> None:
        self.job = job
        self.stream = stream
        self.log = job.logs[stream]
        self.log.acknowledged = offset
        self.wake = Event()
        self._sent = offset
        self._sent_at = 0.0
        self._watch: int | None = None
        self._send = send
        self._clock = clock

    async def run(self, watcher: Watcher) -> None:
        """Send what the server has not acknowledged. Return once the job has ended and all of it is acknowledged."""
        self._sent = self.log.acknowledged
        descriptor = os.open(self.log.path, os.O_RDONLY | os.O_CLOEXEC)
        end = asyncio.create_task(self._wake_at_the_end(), name=f"end of {self.job.order.job_id}")
        try:
            await self._send_all(descriptor, watcher)
        finally:
            end.cancel()
            if self._watch is not None:
                watcher.unwatch(self._watch, self._grew)
                self._watch = None
            os.close(descriptor)

    async def _wake_at_the_end(self) -> None:
        await self.job.ended.wait()
        self.wake.set()

    async def _send_all(self, descriptor: int, watcher: Watcher) -> None:
        while True:
            if self.stream == "agent":
                await self._gather()
            self.wake.clear()
            # In this order: what is there after the end was there before it.
            has_ended = self.job.ended.is_set()
            room = LOG_WINDOW_BYTES - (self._sent - self.log.acknowledged)
            count_max = min(room, LOG_FRAME_BYTES)
            data = await read_at(descriptor, count_max, self._sent) if count_max > 0 else b""
            if room > 0 and self.log.first > self._sent:
                await self._send_gap(self.log.first)  # and what was read may be of a hole
            elif data:
                await self._send_frame(data)
            elif has_ended and room > 0 and self.log.acknowledged >= self._sent:
                return
            elif room <= 0:
                await self.wake.wait()
            elif self._watch is None and (watch := watcher.watch(self.log.path, self._grew)) is not None:
                self._watch = watch  # and look once more: it may have grown before
            else:
                await self._wait_for_more()

    def _grew(self) -> None:
        self._watch = None
        self.wake.set()

    async def _wait_for_more(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S if self._watch is None else None):
                await self.wake.wait()
        is_stream = asyncio.get_running_loop().time() - self._sent_at < STREAMING_S
        if is_stream and not self.job.ended.is_set():
            await asyncio.sleep(STREAM_GATHER_S)

    async def _gather(self) -> None:
        """What the agent notes comes in handfuls, and nobody waits for single lines of it: one frame for several."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self.job.ended.wait()

    async def _send_frame(self, data: bytes) -> None:
        frame = {"t": "log", **self._place()}
        self._sent += len(data)
        self._sent_at = asyncio.get_running_loop().time()
        await self._send(frame, data)

    async def _send_gap(self, end: int) -> None:
        """What is more than the window then waits until the server has acknowledged the gap."""
        frame = {"t": "log_gap", **self._place(), "end": end}
        self._sent = end
        await self._send(frame, None)

    def _place(self) -> dict[str, object]:
        at = self._clock.now().timestamp()
        return {"job_id": self.job.order.job_id, "stream": self.stream, "offset": self._sent, "at": at}


class Followers:
    """All streams that one connection follows."""

    def __init__(self, jobs: Jobs, watcher: Watcher, send: Send, clock: Clock) -> None:
        self._jobs = jobs
        self._watcher = watcher
        self._send = send
        self._clock = clock
        self._followers: dict[tuple[str, str], tuple[_Follower, Task[None]]] = {}

    async def follow(self, job_id: str, stream: str, offset: int) -> None:
        """Send a stream from `offset` on. One that is followed already is started again there.

        An unknown job is no error: it was forgotten while the wish was under way.
        """
        job = self._jobs.find(job_id)
        if job is None or stream not in LOG_STREAMS or offset < 0:
            return
        await self._end((job_id, stream))
        self._jobs.followed(job, stream)
        follower = _Follower(job, stream, offset, self._send, self._clock)
        task = asyncio.create_task(self._run(follower), name=f"{stream} log of {job_id}")
        self._followers[job_id, stream] = follower, task

    def acknowledge(self, job_id: str, stream: str, offset: int) -> None:
        """The server has stored all bytes before `offset`."""
        if (found := self._followers.get((job_id, stream))) is not None:
            found[0].log.acknowledged = max(found[0].log.acknowledged, offset)
            found[0].wake.set()

    async def close(self) -> None:
        """Follow nothing any more."""
        for key in list(self._followers):
            await self._end(key)

    async def _run(self, follower: _Follower) -> None:
        """Whatever goes wrong with one log, it is tried again: only what is sent to the end lets the job be over."""
        job, stream = follower.job, follower.stream
        while self._jobs.find(job.order.job_id) is job:
            try:
                await follower.run(self._watcher)
            except ConnectionError:  # whoever follows next says from where
                return
            except Exception as error:
                is_bug = not isinstance(error, OSError)
                log.warning("The %s log of job %s waits: %s", stream, job.order.job_id, error, exc_info=is_bug)
                await self._clock.sleep(READ_AGAIN_AFTER)
            else:
                self._followers.pop((job.order.job_id, stream), None)
                self._jobs.acknowledged(job, stream)
                return

    async def _end(self, key: tuple[str, str]) -> None:
        if (found := self._followers.pop(key, None)) is not None:
            found[1].cancel()
            await asyncio.gather(found[1], return_exceptions=True)


async def read_at(descriptor: int, count_max: int, offset: int) -> bytes:
    """Up to `count_max` bytes of a file, from memory if they are there, from the disk in a thread if not."""
    buffer = bytearray(count_max)
    try:
        count = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except (BlockingIOError, AttributeError):
        return await asyncio.to_thread(os.pread, descriptor, count_max, offset)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return await asyncio.to_thread(os.pread, descriptor, count_max, offset)
    return bytes(memoryview(buffer)[:count])
