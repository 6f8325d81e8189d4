"""Runs, for asyncio."""

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
    from dstack.spec.parse import RunConfiguration
    from dstack.spec.ports import PortMapping
    from dstack.spec.profile import Retry, SpotPolicy


class Run:
    """One run, as `dstack.api.Run`. What it shows is as of the last `refresh`, `attach` or `logs`."""

    def __init__(self, run: "api.Run", threads: Threads) -> None:
        self._run = run
        self._threads = threads

    def __repr__(self) -> str:
        return repr(self._run)

    @property
    def id(self) -> str:
        """Unique for ever, while a name may be used again."""
        return self._run.id

    @property
    def name(self) -> str:
        """The run's name."""
        return self._run.name

    @property
    def view(self) -> "RunView":
        """All that the server says about the run."""
        return self._run.view

    @property
    def status(self) -> "api.RunStatus":
        """Where the run is in its life."""
        return self._run.status

    @property
    def backend(self) -> "api.BackendType | None":
        """Where it runs; None before it is known."""
        return self._run.backend

    @property
    def hostname(self) -> str | None:
        """The host it runs on; None before it is known."""
        return self._run.hostname

    @property
    def ports(self) -> dict[int, int] | None:
        """Container port to local port while attached, else None."""
        return self._run.ports

    @property
    def ssh_host(self) -> str | None:
        """What `ssh` calls the job while attached, else None."""
        return self._run.ssh_host

    @property
    def editor_url(self) -> str | None:
        """While attached to a dev environment: the link that opens it in its editor, else None."""
        return self._run.editor_url

    @property
    def service_url(self) -> str | None:
        """Where a service is published; None while it is not."""
        return self._run.service_url

    @property
    def service_model(self) -> str | None:
        """What the model behind a service is named by; None where there is none."""
        return self._run.service_model

    @property
    def exit_code(self) -> int | None:
        """As `dstack.api.Run.exit_code`."""
        return self._run.exit_code

    @property
    def reason(self) -> str | None:
        """Why it is ending or has ended, as a word such as `stopped_by_user`."""
        return self._run.reason

    @property
    def cost(self) -> float:
        """As `dstack.api.Run.cost`."""
        return self._run.cost

    @property
    def detail(self) -> str:
        """For people: why it ended, or what it waits for."""
        return self._run.detail

    async def refresh(self) -> None:
        """Fetch what the server knows now."""
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
        """Yield what the job prints, from the start (or `start_time`) and on until the run has ended."""
        return self._threads.stream(self._run.logs(start_time, diagnose, replica_num, job_num))

    def attempt_logs(
        self,
        attempt: int,
        start_time: datetime | None = None,
        diagnose: bool = False,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> AsyncIterator[bytes]:
        """Yield what one attempt of the job prints, until that attempt has ended."""
        return self._threads.stream(self._run.attempt_logs(attempt, start_time, diagnose, replica_num, job_num))

    async def metrics(
        self, start_time: datetime | None = None, replica_num: int = 0, job_num: int = 0
    ) -> "MetricsView":
        """What a job of the run used: CPU, memory and its GPUs, a point each ten seconds and the first ones sooner."""
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
            PortUsedError: a local port is in use, or may not be used.
            SSHError: the tunnel could not be opened; says why.
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
            ClientError: the job does not run.
            SSHError: there is no connection to it; says why.
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
        """Close the tunnel and undo what `attach` did; harmless where nothing is attached."""
        await self._threads.call(self._run.detach)

    async def stop(self, abort: bool = False) -> None:
        """End the run, and detach."""
        await self._threads.call(self._run.stop, abort)


class RunCollection:
    """Operations with runs, as `dstack.api.RunCollection`."""

    def __init__(self, runs: "api.RunCollection", threads: Threads) -> None:
        self._runs = runs
        self._threads = threads

    async def get(self, run_name: str) -> Run | None:
        """The latest run of that name (or the run of that id), or None."""
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
        """What `submit` with the same arguments would do."""
        return await self._threads.call(self._runs.get_plan, configuration, repo, **options)

    async def exec_plan(
        self,
        plan: "api.RunPlan",
        repo: "Repo | None" = None,
        reserve_ports: "bool | Reservation" = True,
        progress: "Progress | None" = None,
    ) -> Run:
        """Do what was planned."""
        return Run(await self._threads.call(self._runs.exec_plan, plan, repo, reserve_ports, progress), self._threads)

    async def get_run_plan(
        self,
        configuration: "RunConfiguration",
        repo: "Repo | None" = None,
        profile: "api.Profile | None" = None,
        configuration_path: str | os.PathLike[str] | None = None,
    ) -> "api.RunPlan":
        """The later spelling of `get_plan`."""
        return await self._threads.call(self._runs.get_run_plan, configuration, repo, profile, configuration_path)

    async def apply_plan(self, run_plan: "api.RunPlan", repo: "Repo | None" = None, reserve_ports: bool = True) -> Run:
        """The later spelling of `exec_plan`."""
        return await self.exec_plan(run_plan, repo, reserve_ports)

    async def apply_configuration(
        self,
        configuration: "RunConfiguration",
        repo: "Repo | None" = None,
        profile: "api.Profile | None" = None,
        configuration_path: str | os.PathLike[str] | None = None,
        reserve_ports: bool = True,
    ) -> Run:
        """`get_run_plan` and `apply_plan` in one."""
        plan = await self.get_run_plan(configuration, repo, profile, configuration_path)
        return await self.apply_plan(plan, repo, reserve_ports)

    async def list(self, all: bool = False) -> "list[Run]":
        """Unfinished runs, newest first, or the last finished one where there are none; with `all` every run."""
        return [Run(one, self._threads) for one in await self._threads.call(self._runs.list, all)]

    async def delete(self, run_name: str) -> None:
        """Delete a finished run with its events and logs."""
        await self._threads.call(self._runs.delete, run_name)
