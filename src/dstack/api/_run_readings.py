"""What a run prints and uses, read from the server."""

from collections.abc import Iterator
from datetime import UTC, datetime

from dstack.api._context import Context
from dstack.api._logs import LogReader
from dstack.api._run_facts import RunFacts
from dstack.errors import ConfigurationError, ResourceNotExistsError
from dstack.protocol import routes
from dstack.protocol.views import JobView, MetricsView, RunView


class RunReadings(RunFacts):
    """What a run prints and uses, read from the server."""

    def __init__(self, context: Context, view: RunView) -> None:
        super().__init__(view)
        self._context = context

    def logs(
        self,
        start_time: datetime | None = None,
        diagnose: bool = False,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> Iterator[bytes]:
        """Yield what the job prints, from the start (or `start_time`) and on until the run has ended.

        Every byte comes once and in order, across broken connections and restarts of the server. Where a job has
        printed more than is kept (10 GB, unless the server's settings say otherwise), the oldest output is lost, and a
        line `[dstack: … of output before this line are lost: …]` stands in its place.

        Args:
            start_time: leave out what was printed before; without a time zone it is local time.
            diagnose: the agent's own log about the job instead.
            replica_num: which replica.
            job_num: which node of it.

        Raises:
            ConfigurationError: `start_time` is out of the calendar.
            ResourceNotExistsError: the run has no such job, or was deleted.
            ServerUnreachableError: the server is away for minutes.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["echo hello"]))
            >>> b"".join(run.logs())
            b'hello\\n'
        """
        return self._read_log(None, start_time, diagnose, replica_num, job_num)

    def attempt_logs(
        self,
        attempt: int,
        start_time: datetime | None = None,
        diagnose: bool = False,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> Iterator[bytes]:
        """Yield what one attempt of the job prints, until that attempt has ended.

        Args:
            attempt: 1 is the first.
            start_time, diagnose, replica_num, job_num: as for `logs`.

        Raises:
            ConfigurationError: `start_time` is out of the calendar.
            ResourceNotExistsError: the run has no such job or attempt, or was deleted.
            ServerUnreachableError: the server is away for minutes.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["echo hello"]))
            >>> b"".join(run.attempt_logs(1))
            b'hello\\n'
        """
        return self._read_log(attempt, start_time, diagnose, replica_num, job_num)

    def _read_log(
        self, attempt: int | None, start_time: datetime | None, diagnose: bool, replica_num: int, job_num: int
    ) -> Iterator[bytes]:
        query = {
            "replica": replica_num,
            "node": job_num,
            "attempt": attempt,
            "stream": "agent" if diagnose else "job",
            "start_time": _instant(start_time),
        }
        path = {"project": self._context.project, "run": self.id}
        reader = LogReader(self._context.transport, path, query, self._fetch, self._changed)
        return self._log(reader, replica_num, job_num)

    def metrics(self, start_time: datetime | None = None, replica_num: int = 0, job_num: int = 0) -> MetricsView:
        """What a job of the run used: CPU, memory and its GPUs, a point each ten seconds and the first ones sooner.

        The last hour of a job is kept, and seven days longer once it has ended. A job that was tried again is shown as
        of its latest attempt.

        Args:
            start_time: only what came later; without a time zone it is local time.
            replica_num: which replica.
            job_num: which node of it.

        Returns:
            `points`, in order, each with `at`, `cpu_cores`, `memory_mib` and `gpus`; and as `cpu_cores`, `memory_mib`
            and `gpus` what the job can use at most. What cannot be told is None.

        Raises:
            ResourceNotExistsError: the run has no such job, or was deleted.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["sleep 4"]))
            >>> [one.status.value for one in run.changes()][-1]
            'done'
            >>> last = run.metrics().points[-1]
            >>> last.cpu_cores < 1, last.memory_mib > 0, last.gpus
            (True, True, [])
        """
        self._check_job(replica_num, job_num)
        view: MetricsView = self._context.transport.call(
            routes.READ_METRICS,
            query={
                "replica": replica_num,
                "node": job_num,
                "start_time": _instant(start_time),
            },
            project=self._context.project,
            run=self.id,
        )
        return view

    def _log(self, reader: LogReader, replica: int, node: int) -> Iterator[bytes]:
        self._check_job(replica, node)
        yield from reader.follow(self._view)

    def _check_job(self, replica: int, node: int) -> None:
        """Raise where the run has no such job, by what the server says now if need be; replicas come and go."""
        if self._view.jobs and self._job(replica, node) is None:
            self._fetch()
        self._wanted_job(replica, node)

    def _wanted_job(self, replica: int, node: int) -> JobView | None:
        job = self._job(replica, node)
        if job is None and (self._view.jobs or min(replica, node) < 0):
            raise ResourceNotExistsError(f"The run `{self.name}` has no job {replica}/{node}")
        return job  # before its first start, a run has no jobs at all

    def _fetch(self) -> RunView:
        self._view = self._context.transport.call(routes.GET_RUN, project=self._context.project, run=self.id)
        return self._view

    def _changed(self, view: RunView) -> RunView:
        next(self._context.events.follow(self.id, view.cursor))
        return self._fetch()


def _instant(time: datetime | None) -> str | None:
    try:
        return time.astimezone(UTC).isoformat() if time else None
    except (ValueError, OverflowError) as error:  # the first and last day of the calendar, moved out of it
        raise ConfigurationError(
            f"`{time}` is not a time in every time zone", hint="Leave `start_time` out to have all"
        ) from error
