"""The asyncio form of `dstack.api._run_facts`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack import api
    from dstack.api.aio._threads import Threads
    from dstack.protocol.services import ServiceModelView
    from dstack.protocol.statuses import RunStatus
    from dstack.protocol.views import RunView
    from dstack.spec.backends import BackendType


class RunFacts:
    """The properties of a run, read without a request."""

    def __init__(self, run: api.Run, threads: Threads) -> None:
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
    def view(self) -> RunView:
        """The run as the server last returned it, with all jobs and attempts. URLs of a service are complete."""
        return self._run.view

    @property
    def status(self) -> RunStatus:
        """The run's status."""
        return self._run.status

    @property
    def backend(self) -> BackendType | None:
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
        """The URL of a service. It ends with a slash. None for other runs, and once the service has ended.

        Until a replica is ready, requests wait for it, or get status 503 if none starts.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Service
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Service(commands=["python -m http.server 8000"], port=8000))
            ...         print(run.service_url.endswith(f"/proxy/services/{run.view.project}/{run.name}/"))
            ...         await run.stop(abort=True)
            >>> asyncio.run(main())
            True
        """
        return self._run.service_url

    @property
    def service_model(self) -> ServiceModelView | None:
        """The model behind a service; None without one.

        Its `name` is the value of `model` in requests, and its `url` is the `base_url` for a client of OpenAI's API.
        """
        return self._run.service_model

    @property
    def exit_code(self) -> int | None:
        """0 if all jobs succeeded, otherwise the exit code of the first job that failed.

        None before the end of the run, and if no exit code is known.
        """
        return self._run.exit_code

    @property
    def reason(self) -> str | None:
        """The reason why the run is ending or has ended, such as `stopped_by_user`; None before."""
        return self._run.reason

    @property
    def detail(self) -> str:
        """A text for people: why the run ended, or what it waits for."""
        return self._run.detail

    @property
    def cost(self) -> float:
        """The cost of the run so far, in US dollars.

        Sums all attempts of all jobs: each costs its instance's price from its start to its end.
        """
        return self._run.cost
