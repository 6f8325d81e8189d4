"""The bytes that a job prints, every one once and in order, whatever happens to connections and servers meanwhile."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dstack.api._transport import FIRST_DELAY_S, Patience, Query, Transport
from dstack.errors import ServerUnreachableError
from dstack.kit.text import size_text
from dstack.protocol import routes
from dstack.protocol.views import JobView, RunView

IDLE_TIMEOUT_S = 60.0
"""A job may be silent for hours: then the stream is asked for again now and then, to learn of a dead connection."""

EMPTY_ANSWERS_MAX = 3
"""In a row, of a run that has ended: what is missing then will not come any more."""


@dataclass(slots=True)
class LogReader:
    """Follows one log of one job, resuming by offset.

    Args:
        transport: the way to the server.
        path: the path parameters of `READ_LOGS`.
        query: its query; `offset` is added.
        refresh: fetches the run.
        changed: waits until the run is not as in the view any more, and fetches it.
    """

    transport: Transport
    path: dict[str, str]
    query: Query
    refresh: Callable[[], RunView]
    changed: Callable[[RunView], RunView]
    offset: int | None = None
    """Of the next byte; None until the server has said where `start_time` is."""
    _end: int = 0
    """Where the log ended when the server last began an answer."""
    _is_inside_line: bool = False

    def follow(self, run: RunView) -> Iterator[bytes]:
        """Yield the log as it grows until the run, or the attempt in the query, has ended.

        A line of our own stands in place of what is lost.

        Once all has ended, the log ends where the server says; a stream that ends earlier may have been cut short by a
        server that stopped, or by a gap in the log.

        Raises:
            ServerUnreachableError: the server is away for minutes.
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
        """Wait for a reason to ask again, after an answer without a byte."""
        if self._has_ended_job(run):
            return self.changed(run)
        self.transport.pause(FIRST_DELAY_S)
        return run

    def _has_ended_job(self, run: RunView) -> bool:
        """Whether the job has ended though the run has not, so that only a new attempt can print more."""
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
