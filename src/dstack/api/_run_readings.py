"""The logs, metrics and traffic of a run, read from the server."""

from collections.abc import Iterator
from datetime import UTC, datetime

from dstack.api._logs import LogReader
from dstack.api._run_facts import RunFacts
from dstack.errors import ConfigurationError, ResourceNotExistsError
from dstack.protocol import routes
from dstack.protocol.jobs import no_job_text
from dstack.protocol.metrics import MetricsView, TrafficHistoryView
from dstack.protocol.views import JobView, RunView


class RunReadings(RunFacts):
    """The part of `Run` that reads logs, metrics and traffic from the server."""

    def logs(
        self,
        start_time: datetime | None = None,
        diagnose: bool = False,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> Iterator[bytes]:
        """Yield the job's output from the start (or `start_time`) until the run has ended.

        Every byte comes once and in order, across broken connections and restarts of the server. The server keeps
        10 GB of output a job, unless its settings differ. If a job prints more, the oldest output is dropped, and a
        line that begins with `[dstack:` reports the dropped amount.

        Args:
            start_time: leave out output printed before this time; without a time zone it is local time.
            diagnose: whether to read the agent's log about the job instead of the job's output.
            replica_num: the number of the replica, from 0.
            job_num: the number of the node in that replica, from 0.

        Returns:
            An iterator of chunks of any size, in bytes as the job printed them.

        Raises:
            ConfigurationError: `start_time` is outside the calendar.
            ResourceNotExistsError: the run has no such job, or was deleted.
            ServerUnreachableError: the server did not answer for five minutes.

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
        """Yield the output of one attempt of the job, until that attempt has ended.

        Args:
            attempt: the number of the attempt, from 1.
            start_time: leave out output printed before this time; without a time zone it is local time.
            diagnose: whether to read the agent's log about the job instead of the job's output.
            replica_num: the number of the replica, from 0.
            job_num: the number of the node in that replica, from 0.

        Raises:
            ConfigurationError: `start_time` is outside the calendar.
            ResourceNotExistsError: the run has no such job or attempt, or was deleted.
            ServerUnreachableError: the server did not answer for five minutes.

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
        """Return the CPU, memory and GPU usage of a job: a point every ten seconds, and more often at first.

        The server keeps the last hour of a job, for seven days after its end. After a retry, the points are those of
        the latest attempt.

        Args:
            start_time: leave out points before this time; without a time zone it is local time.
            replica_num: the number of the replica, from 0.
            job_num: the number of the node in that replica, from 0.

        Returns:
            `points`, in order, each with `at`, `cpu_cores`, `memory_mib` and `gpus`. The view's own `cpu_cores`,
            `memory_mib` and `gpus` are the job's limits. Unknown values are None.

        Raises:
            ConfigurationError: `start_time` is outside the calendar.
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

    def traffic(self, start_time: datetime | None = None) -> TrafficHistoryView:
        """Return the requests of a service: a point for each ten seconds.

        The server keeps the last hour of a service, for seven days after its end. `view.service.traffic` has the
        totals, and the rates of the last minute.

        Args:
            start_time: leave out points before this time; without a time zone it is local time.

        Returns:
            `points`, in order, each with `at`, `requests_per_s`, `errors_per_s`, `in_flight`, `held`,
            `latency_p50_s`, `latency_p95_s` and `replicas`. `held` requests waited for a replica, at most, and
            `replicas` ran.

        Raises:
            ConfigurationError: `start_time` is outside the calendar.
            InvalidRequestError: the run is not a service.
            ResourceNotExistsError: the run was deleted.

        Examples:
            >>> from dstack.api import Client, Service
            >>> run = Client.from_config().runs.submit(Service(commands=["python -m http.server 8000"], port=8000))
            >>> any(point.requests_per_s for point in run.traffic().points)
            False
            >>> run.stop(abort=True)
        """
        view: TrafficHistoryView = self._context.transport.call(
            routes.READ_TRAFFIC,
            query={"start_time": _instant(start_time)},
            project=self._context.project,
            run=self.id,
        )
        return view

    def _log(self, reader: LogReader, replica: int, node: int) -> Iterator[bytes]:
        self._check_job(replica, node)
        yield from reader.follow(self._view)

    def _check_job(self, replica: int, node: int) -> None:
        """Raise if the run has no such job. Fetches the run before: the number of replicas may have changed."""
        if self._view.jobs and self._job(replica, node) is None:
            self._fetch()
        self._wanted_job(replica, node)

    def _wanted_job(self, replica: int, node: int) -> JobView | None:
        job = self._job(replica, node)
        if job is None and (self._view.jobs or min(replica, node) < 0):
            known = [(one.replica, one.node) for one in self._view.jobs]
            raise ResourceNotExistsError(no_job_text(self.name, replica, node, known))
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
