"""The asyncio form of `dstack.api._runs`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from dstack.api.aio._run import Run

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from dstack import api
    from dstack.api import _ports
    from dstack.api._files import Progress
    from dstack.api._repos import Repo
    from dstack.api._submissions import Options, RunPlan
    from dstack.api.aio._threads import Threads
    from dstack.spec.backends import BackendType
    from dstack.spec.configurations import RunConfiguration
    from dstack.spec.profile import Profile, Retry, SpotPolicy
    from dstack.spec.reading import Reading
    from dstack.spec.resources import Resources


class RunCollection:
    """The runs of one project.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         print(await client.runs.get("no-such-run") is None)
        >>> asyncio.run(main())
        True
    """

    def __init__(self, runs: api.RunCollection, threads: Threads) -> None:
        self._runs = runs
        self._threads = threads

    async def get(self, run_name: str) -> Run | None:
        """Return a run, or None if it is missing.

        Args:
            run_name: the run's name, or its id. Of several runs with one name, the latest is returned.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         runs = client.runs
            ...         run = await runs.submit(Task(commands=["true"]), run_name="found")
            ...         print((await runs.get("found")).id == run.id)
            >>> asyncio.run(main())
            True
        """
        found = await self._threads.call(self._runs.get, run_name)
        return None if found is None else Run(found, self._threads)

    async def submit(
        self,
        configuration: RunConfiguration,
        configuration_path: str | os.PathLike[str] | None = None,
        repo: Repo | None = None,
        backends: Sequence[BackendType | str] | None = None,
        regions: Sequence[str] | None = None,
        instance_types: Sequence[str] | None = None,
        resources: Resources | None = None,
        spot_policy: SpotPolicy | str | None = None,
        retry_policy: Retry | bool | None = None,
        max_duration: int | str | None = None,
        max_price: float | None = None,
        working_dir: str | None = None,
        run_name: str | None = None,
        reserve_ports: bool = True,
    ) -> Run:
        """Submit a run and return at once. An argument overrides the same field of the configuration.

        Args:
            configuration: a task, service or dev environment.
            configuration_path: the path of the configuration's file, shown with the run.
            repo: the run's files; by default the repo in `repos` of the configuration, or none.
            backends, regions, instance_types: those that may be used; by default any.
            resources: the required CPUs, memory, disk and GPUs.
            spot_policy: `spot`, `on-demand` or `auto`.
            retry_policy: when to submit a failed run again; True for all events within an hour.
            max_duration: the longest time that a job may run, in seconds or as `2h`.
            max_price: the highest price of an instance, in US dollars an hour.
            working_dir: the folder in which the commands start, relative to the run's files.
            run_name: the run's name; by default the configuration's name, or a random one.
            reserve_ports: whether to bind the local ports first, so that a port in use is found before the run exists.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["echo hello"]))
            ...         print(b"".join([item async for item in run.logs()]))
            >>> asyncio.run(main())
            b'hello\\n'

        Raises:
            ConfigurationError: the configuration or an argument is invalid.
            PortUsedError: a local port is in use or not permitted; nothing was created.
            ResourceExistsError: a run of that name is active.
            NoCapacityError: no machine fits, with the reasons.
            RepoDoesNotExistError: the remote repo is not initialized in the project.
        """
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
        self, configuration: RunConfiguration | Reading, repo: Repo | None = None, **options: Unpack[Options]
    ) -> RunPlan:
        """Return the plan of a submit: the offers that fit, cheapest first, and why other machines do not fit.

        If a run of that name is active, the plan also has the differences from it. Nothing is created.

        Args:
            configuration: a task, service or dev environment; or its canonical form, with which options of fields have
                no effect.
            repo: the run's files; by default the run has none.
            options: as for `submit`; also `profile`, whose fields apply where neither options nor configuration set
                them.

        Raises:
            ConfigurationError: the configuration or an option is invalid.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         plan = await client.runs.get_plan(Task(commands=["echo hello"]))
            ...         print(plan.offers[0].backend)
            >>> asyncio.run(main())
            local
        """
        return await self._threads.call(self._runs.get_plan, configuration, repo, **options)

    async def exec_plan(
        self,
        plan: RunPlan,
        repo: Repo | None = None,
        reserve_ports: bool | _ports.Reservation = True,
        progress: Progress | None = None,
        force: bool = False,
    ) -> Run:
        """Execute a plan: submit the run, or update the active run if all changes can be made while it runs.

        The replicas of a service are replaced one by one where that is needed, and it goes on meanwhile.

        Args:
            plan: the plan from `get_plan`.
            repo: the run's files, if the plan was made without them.
            reserve_ports: whether to bind the local ports first; or ports that are bound already.
            progress: called with the number of bytes on the server so far and the number of all bytes.
            force: whether to replace the replicas of a service at once, and not one by one.

        Returns:
            The submitted or updated run.

        Raises:
            ConfigurationError, PortUsedError, NoCapacityError: as for `submit`.
            ResourceExistsError: a run of that name is active, and a change needs a new start.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         runs = client.runs
            ...         run = await runs.exec_plan(await runs.get_plan(Task(commands=["echo hello"])))
            ...         print(b"".join([item async for item in run.logs()]))
            >>> asyncio.run(main())
            b'hello\\n'
        """
        return Run(
            await self._threads.call(self._runs.exec_plan, plan, repo, reserve_ports, progress, force), self._threads
        )

    async def get_run_plan(
        self,
        configuration: RunConfiguration,
        repo: Repo | None = None,
        profile: Profile | None = None,
        configuration_path: str | os.PathLike[str] | None = None,
    ) -> RunPlan:
        """Return the plan of a submit; a later spelling of `get_plan`.

        Args:
            configuration: a task, service or dev environment.
            repo: the run's files; by default the run has none.
            profile: fields that apply where the configuration does not set them.
            configuration_path: the path of the configuration's file, shown with the run.

        Raises:
            ConfigurationError: as for `get_plan`.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print((await client.runs.get_run_plan(Task(commands=["echo hello"]))).view.project)
            >>> asyncio.run(main())
            main
        """
        return await self.get_plan(configuration, repo, profile=profile, configuration_path=configuration_path)

    async def apply_plan(self, run_plan: RunPlan, repo: Repo | None = None, reserve_ports: bool = True) -> Run:
        """Execute a plan; a later spelling of `exec_plan`.

        Args:
            run_plan: the plan from `get_run_plan`.
            repo: the run's files, if the plan was made without them.
            reserve_ports: whether to bind the local ports first.

        Raises:
            ConfigurationError, PortUsedError, NoCapacityError, ResourceExistsError: as for `exec_plan`.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         runs = client.runs
            ...         print(
            ...             (
            ...                 await runs.apply_plan(await runs.get_run_plan(Task(commands=["true"], name="applied")))
            ...             ).name
            ...         )
            >>> asyncio.run(main())
            applied
        """
        return await self.exec_plan(run_plan, repo, reserve_ports)

    async def apply_configuration(
        self,
        configuration: RunConfiguration,
        repo: Repo | None = None,
        profile: Profile | None = None,
        configuration_path: str | os.PathLike[str] | None = None,
        reserve_ports: bool = True,
    ) -> Run:
        """Plan a run and execute the plan: `get_run_plan` and `apply_plan` in one call.

        Args:
            configuration: a task, service or dev environment.
            repo: the run's files; by default the run has none.
            profile: fields that apply where the configuration does not set them.
            configuration_path: the path of the configuration's file, shown with the run.
            reserve_ports: whether to bind the local ports first.

        Raises:
            ConfigurationError, PortUsedError, NoCapacityError, ResourceExistsError: as for `exec_plan`.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print((await client.runs.apply_configuration(Task(commands=["true"], name="at-once"))).name)
            >>> asyncio.run(main())
            at-once
        """
        plan = await self.get_run_plan(configuration, repo, profile, configuration_path)
        return await self.apply_plan(plan, repo, reserve_ports)

    async def delete(self, run_name: str) -> None:
        """Delete a finished run with its events and logs.

        Args:
            run_name: the run's name or id.

        Raises:
            ResourceNotExistsError: the run is missing.
            InvalidRequestError: the run has not finished.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         runs = client.runs
            ...         run = await runs.submit(Task(commands=["true"]), run_name="old")
            ...         print(b"".join([item async for item in run.logs()]))
            ...         await runs.delete("old")
            ...         print(await runs.get("old") is None)
            >>> asyncio.run(main())
            b''
            True
        """
        await self._threads.call(self._runs.delete, run_name)

    async def list(self, all: bool = False) -> list[Run]:
        """Return the unfinished runs, newest first; if all have finished, the last one.

        Args:
            all: whether to return finished runs too.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         runs = client.runs
            ...         run = await runs.submit(Task(commands=["true"]), run_name="listed")
            ...         print("listed" in [one.name for one in await runs.list(all=True)])
            >>> asyncio.run(main())
            True
        """
        return [Run(one, self._threads) for one in await self._threads.call(self._runs.list, all)]
