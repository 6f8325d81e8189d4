"""The runs of a project, for asyncio."""

import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Unpack

from dstack import api
from dstack.api.aio._threads import Threads

if TYPE_CHECKING:
    from dstack.api._files import Progress
    from dstack.api._ports import Reservation
    from dstack.api._repos import Repo
    from dstack.api._submissions import Options
    from dstack.protocol.views import MetricsView, RunView
    from dstack.spec.configurations import RunConfiguration
    from dstack.spec.ports import PortMapping
    from dstack.spec.profile import Retry, SpotPolicy


class Run:
    """One run, as `dstack.api.Run`. Its properties are as of the last `refresh`, `attach` or `logs`."""

    def __init__(self, run: "api.Run", threads: Threads) -> None:
        self._run = run
        self._threads = threads

    def __repr__(self) -> str:
        return repr(self._run)

    @property
    def id(self) -> str:
        """The run's id. It is unique, while a name may be used again."""
        return self._run.id

    @property
    def name(self) -> str:
        """The run's name."""
        return self._run.name

    @property
    def view(self) -> "RunView":
        """The run as the server last returned it, with all jobs and attempts."""
        return self._run.view

    @property
    def status(self) -> "api.RunStatus":
        """The run's status."""
        return self._run.status

    @property
    def backend(self) -> "api.BackendType | None":
        """The backend of the run's first job; None before the job has an instance."""
        return self._run.backend

    @property
    def hostname(self) -> str | None:
        """The name or address of the first job's host; None before it is known."""
        return self._run.hostname

    @property
    def ports(self) -> dict[int, int] | None:
        """Container port to local port while attached; otherwise None."""
        return self._run.ports

    @property
    def ssh_host(self) -> str | None:
        """The name of the job for `ssh` while attached; otherwise None."""
        return self._run.ssh_host

    @property
    def editor_url(self) -> str | None:
        """The link that opens a dev environment in its editor while attached; otherwise None."""
        return self._run.editor_url

    @property
    def service_url(self) -> str | None:
        """The URL of a service; None while the service is not published."""
        return self._run.service_url

    @property
    def service_model(self) -> str | None:
        """The name of the service's model; None for a service without a model."""
        return self._run.service_model

    @property
    def exit_code(self) -> int | None:
        """The exit code of the run, as `dstack.api.Run.exit_code`."""
        return self._run.exit_code

    @property
    def reason(self) -> str | None:
        """The reason why the run is ending or has ended, such as `stopped_by_user`; None before."""
        return self._run.reason

    @property
    def cost(self) -> float:
        """The cost of the run so far, in US dollars, as `dstack.api.Run.cost`."""
        return self._run.cost

    @property
    def detail(self) -> str:
        """A text for people: why the run ended, or what it waits for."""
        return self._run.detail

    async def refresh(self) -> None:
        """Fetch the run's current state from the server."""
        await self._threads.call(self._run.refresh)

    async def changes(self) -> "AsyncIterator[Run]":
        """Yield this run now and after each change, until it has ended."""
        async for _ in self._threads.stream(self._run.changes()):
            yield self

    def logs(
        self,
        start_time: datetime | None = None,
        diagnose: bool = False,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> AsyncIterator[bytes]:
        """Yield the job's output from the start (or `start_time`) until the run has ended."""
        return self._threads.stream(self._run.logs(start_time, diagnose, replica_num, job_num))

    def attempt_logs(
        self,
        attempt: int,
        start_time: datetime | None = None,
        diagnose: bool = False,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> AsyncIterator[bytes]:
        """Yield the output of one attempt of the job, until that attempt has ended."""
        return self._threads.stream(self._run.attempt_logs(attempt, start_time, diagnose, replica_num, job_num))

    async def metrics(
        self, start_time: datetime | None = None, replica_num: int = 0, job_num: int = 0
    ) -> "MetricsView":
        """Return the CPU, memory and GPU usage of a job: a point every ten seconds, and more often at first."""
        return await self._threads.call(self._run.metrics, start_time, replica_num, job_num)

    async def attach(
        self,
        ssh_identity_file: str | os.PathLike[str] | None = None,
        bind_address: str | None = None,
        ports_overrides: "Sequence[PortMapping | str] | None" = None,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> bool:
        """Wait until the job runs, then open an SSH tunnel, forward its ports and make `ssh <run>` work.

        Raises:
            ResourceNotExistsError: the run has no such job.
            PortUsedError: a local port is in use or not permitted.
            SSHError: the tunnel could not be opened.
        """
        return await self._threads.wait(
            self._run.attach, ssh_identity_file, bind_address, ports_overrides, replica_num, job_num
        )

    async def exec(
        self,
        command: Sequence[str],
        *,
        has_terminal: bool = False,
        ssh_identity_file: str | os.PathLike[str] | None = None,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> int:
        """Run a command inside a running job, with this process's standard input, output and error output.

        Raises:
            ResourceNotExistsError: the run has no such job.
            ClientError: the job does not run.
            SSHError: the connection could not be opened, or was lost.
        """
        run = partial(
            self._run.exec,
            command,
            has_terminal=has_terminal,
            ssh_identity_file=ssh_identity_file,
            replica_num=replica_num,
            job_num=job_num,
        )
        return await self._threads.wait(run)

    async def detach(self) -> None:
        """Close the tunnel and undo the other effects of `attach`. Does nothing if the run is not attached."""
        await self._threads.call(self._run.detach)

    async def stop(self, abort: bool = False) -> None:
        """Stop the run and detach. Returns before the run has ended."""
        await self._threads.call(self._run.stop, abort)


class RunCollection:
    """The runs of one project, as `dstack.api.RunCollection`."""

    def __init__(self, runs: "api.RunCollection", threads: Threads) -> None:
        self._runs = runs
        self._threads = threads

    async def get(self, run_name: str) -> Run | None:
        """Return the latest run of that name, or the run of that id; None if it is missing."""
        found = await self._threads.call(self._runs.get, run_name)
        return None if found is None else Run(found, self._threads)

    async def submit(  # noqa: PLR0913 - the arguments that programs know it by
        self,
        configuration: "RunConfiguration",
        configuration_path: str | os.PathLike[str] | None = None,
        repo: "Repo | None" = None,
        backends: "Sequence[api.BackendType | str] | None" = None,
        regions: Sequence[str] | None = None,
        instance_types: Sequence[str] | None = None,
        resources: "api.Resources | None" = None,
        spot_policy: "SpotPolicy | str | None" = None,
        retry_policy: "Retry | bool | None" = None,
        max_duration: int | str | None = None,
        max_price: float | None = None,
        working_dir: str | None = None,
        run_name: str | None = None,
        reserve_ports: bool = True,
    ) -> Run:
        """Submit a run and return at once. Arguments and errors are those of `dstack.api.RunCollection.submit`."""
        return Run(
            await self._threads.call(
                self._runs.submit,
                configuration,
                configuration_path,
                repo,
                backends,
                regions,
                instance_types,
                resources,
                spot_policy,
                retry_policy,
                max_duration,
                max_price,
                working_dir,
                run_name,
                reserve_ports,
            ),
            self._threads,
        )

    async def get_plan(
        self, configuration: "RunConfiguration", repo: "Repo | None" = None, **options: "Unpack[Options]"
    ) -> "api.RunPlan":
        """Return the plan of a submit. Nothing is created."""
        return await self._threads.call(self._runs.get_plan, configuration, repo, **options)

    async def exec_plan(
        self,
        plan: "api.RunPlan",
        repo: "Repo | None" = None,
        reserve_ports: "bool | Reservation" = True,
        progress: "Progress | None" = None,
    ) -> Run:
        """Execute a plan: submit the run, or update the active run if all changes can be made in place."""
        return Run(await self._threads.call(self._runs.exec_plan, plan, repo, reserve_ports, progress), self._threads)

    async def get_run_plan(
        self,
        configuration: "RunConfiguration",
        repo: "Repo | None" = None,
        profile: "api.Profile | None" = None,
        configuration_path: str | os.PathLike[str] | None = None,
    ) -> "api.RunPlan":
        """Return the plan of a submit; a later spelling of `get_plan`."""
        return await self._threads.call(self._runs.get_run_plan, configuration, repo, profile, configuration_path)

    async def apply_plan(self, run_plan: "api.RunPlan", repo: "Repo | None" = None, reserve_ports: bool = True) -> Run:
        """Execute a plan; a later spelling of `exec_plan`."""
        return await self.exec_plan(run_plan, repo, reserve_ports)

    async def apply_configuration(
        self,
        configuration: "RunConfiguration",
        repo: "Repo | None" = None,
        profile: "api.Profile | None" = None,
        configuration_path: str | os.PathLike[str] | None = None,
        reserve_ports: bool = True,
    ) -> Run:
        """Plan a run and execute the plan: `get_run_plan` and `apply_plan` in one call."""
        plan = await self.get_run_plan(configuration, repo, profile, configuration_path)
        return await self.apply_plan(plan, repo, reserve_ports)

    async def list(self, all: bool = False) -> "list[Run]":
        """Return the unfinished runs, newest first; if all have finished, the last one. With `all` every run."""
        return [Run(one, self._threads) for one in await self._threads.call(self._runs.list, all)]

    async def delete(self, run_name: str) -> None:
        """Delete a finished run with its events and logs."""
        await self._threads.call(self._runs.delete, run_name)
