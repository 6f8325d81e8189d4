"""The log of a job: each byte once and in order, across broken connections and server restarts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dstack.api._transport import FIRST_DELAY, Patience, Query, Transport
from dstack.errors import ServerUnreachableError
from dstack.kit.text import size_text
from dstack.protocol import routes
from dstack.protocol.views import JobView, RunView

IDLE_TIMEOUT_S = 60.0
"""The silence after which the stream is requested again, to detect a dead connection. A job may be silent for hours."""

EMPTY_ANSWERS_MAX = 3
"""After this many empty answers in a row, the missing end of an ended run's log is lost."""


@dataclass(slots=True)
class LogReader:
    """A reader of one log of one job, which resumes by offset.

    Args:
        transport: the connection to the server.
        path: the path parameters of `READ_LOGS`.
        query: the query of `READ_LOGS`; the reader adds `offset`.
        refresh: fetches the run.
        changed: waits until the run differs from a view, and fetches it.
    """

    transport: Transport
    path: dict[str, str]
    query: Query
    refresh: Callable[[], RunView]
    changed: Callable[[RunView], RunView]
    offset: int | None = None
    """The offset of the next byte; None until the server has located `start_time`."""
    _end: int = 0
    """The end of the log when the server began its last answer."""
    _is_inside_line: bool = False

    def follow(self, run: RunView) -> Iterator[bytes]:
        """Yield the log as it grows until the run, or the attempt in the query, has ended.

        A line of dstack's own replaces lost output.

        After the end, the log is complete at the offset that the server reports. A stream that ends before was cut
        short by a stopping server, or by a gap in the log.

        Raises:
            ServerUnreachableError: the server did not answer for five minutes.
        """
        patience = Patience(self.transport)
        empty_answers = 0
        while True:
            if not run.jobs and not run.status.is_finished():
                run = self.changed(run)  # before its first start, a run has no jobs
                continue
            known = self.offset
            try:
                yield from self._read(patience)
                if self._is_over(run):
                    empty_answers = empty_answers + 1 if self.offset == known else 0
                    if (self.offset or 0) >= self._end or empty_answers >= EMPTY_ANSWERS_MAX:
                        return
                    continue
                run = self.refresh()
            except ServerUnreachableError as error:
                patience.endure(error)
                continue
            if self.offset == known and not self._is_over(run):
                run = self._wait(run)

    def _is_over(self, run: RunView) -> bool:
        """Return whether nothing more can be printed to what is read: the run has ended, or the attempt."""
        attempt = int(self.query.get("attempt") or 0)
        jobs = self._jobs(run)
        latest = max((job.attempt for job in jobs), default=0)
        has_next = latest > attempt or all(job.status.is_finished() for job in jobs)
        return run.status.is_finished() or (attempt > 0 and has_next)

    def _wait(self, run: RunView) -> RunView:
        """Wait for a reason to ask again, after an empty answer."""
        if self._has_ended_job(run):
            return self.changed(run)
        self.transport.pause(FIRST_DELAY.total_seconds())
        return run

    def _has_ended_job(self, run: RunView) -> bool:
        """Whether the job has ended before its run, so that only a new attempt can print more."""
        return all(job.status.is_finished() for job in self._jobs(run))

    def _jobs(self, run: RunView) -> list[JobView]:
        """Return the run's latest attempt of the job, in a list that is empty where the job is missing."""
        which = (int(self.query["replica"] or 0), int(self.query["node"] or 0))
        return [job for job in run.jobs if (job.replica, job.node) == which]

    def _read(self, patience: Patience) -> Iterator[bytes]:
        query = dict(self.query)
        if self.offset is not None:
            query = {**query, "start_time": None, "offset": self.offset}
        with self.transport.stream(
            routes.READ_LOGS,
            query={**query, "follow": True},
            accept="application/octet-stream",
            idle_timeout_s=IDLE_TIMEOUT_S,
            **self.path,
        ) as reply:
            patience.renew()
            self.offset = int(reply.headers.get("Dstack-Log-Offset", self.offset or 0))
            self._end = int(reply.headers.get("Dstack-Log-End", 0))
            if lost_bytes := int(reply.headers.get("Dstack-Log-Lost", 0)):
                yield self._notice(lost_bytes)
            for chunk in reply.chunks():
                self.offset += len(chunk)
                self._is_inside_line = not chunk.endswith(b"\n")
                yield chunk

    def _notice(self, lost_bytes: int) -> bytes:
        line = f"[dstack: {size_text(lost_bytes)} of output before this line are lost: more was printed than is kept]\n"
        before, self._is_inside_line = "\n" if self._is_inside_line else "", False
        return f"{before}{line}".encode()
