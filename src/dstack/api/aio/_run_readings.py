"""The asyncio form of `dstack.api._run_readings`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dstack.api.aio._run_facts import RunFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from dstack.protocol.metrics import MetricsView, TrafficHistoryView


class RunReadings(RunFacts):
    """The part of `Run` that reads logs, metrics and traffic from the server."""

    def logs(
        self, start_time: datetime | None = None, diagnose: bool = False, replica_num: int = 0, job_num: int = 0
    ) -> AsyncIterator[bytes]:
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
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["echo hello"]))
            ...         print(b"".join([item async for item in run.logs()]))
            >>> asyncio.run(main())
            b'hello\\n'
        """
        return self._threads.stream(self._run.logs(start_time, diagnose, replica_num, job_num))

    def attempt_logs(
        self,
        attempt: int,
        start_time: datetime | None = None,
        diagnose: bool = False,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> AsyncIterator[bytes]:
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
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["echo hello"]))
            ...         print(b"".join([item async for item in run.attempt_logs(1)]))
            >>> asyncio.run(main())
            b'hello\\n'
        """
        return self._threads.stream(self._run.attempt_logs(attempt, start_time, diagnose, replica_num, job_num))

    async def metrics(self, start_time: datetime | None = None, replica_num: int = 0, job_num: int = 0) -> MetricsView:
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
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["sleep 4"]))
            ...         print([one.status.value async for one in run.changes()][-1])
            ...         last = (await run.metrics()).points[-1]
            ...         print((last.cpu_cores < 1, last.memory_mib > 0, last.gpus))
            >>> asyncio.run(main())
            done
            (True, True, [])
        """
        return await self._threads.call(self._run.metrics, start_time, replica_num, job_num)

    async def traffic(self, start_time: datetime | None = None) -> TrafficHistoryView:
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
            >>> import asyncio
            >>> from dstack.api.aio import Client, Service
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Service(commands=["python -m http.server 8000"], port=8000))
            ...         print(any(point.requests_per_s for point in (await run.traffic()).points))
            ...         await run.stop(abort=True)
            >>> asyncio.run(main())
            False
        """
        return await self._threads.call(self._run.traffic, start_time)
