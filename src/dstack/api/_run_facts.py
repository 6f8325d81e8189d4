"""The state of a run as last fetched, and of this process's attachment to it."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dstack.api._context import Context
from dstack.kit.clock import SystemClock
from dstack.protocol.services import ServiceModelView, ServiceView
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from dstack.protocol.views import AttemptView, InstanceView, JobView, RunView
from dstack.spec.backends import BackendType

if TYPE_CHECKING:
    from dstack.api._attach import Attachment

HOUR_S = 3600
MACHINE_REASONS = frozenset(
    {JobReason.NO_CAPACITY, JobReason.INTERRUPTED, JobReason.INSTANCE_UNREACHABLE, JobReason.HOST_ERROR}
)
"""Reasons for which a machine, or the lack of one, ends an attempt."""


class RunFacts:
    """The properties of a run, read without a request."""

    def __init__(self, context: Context, view: RunView) -> None:
        self._context = context
        self._view = view
        self._attachment: Attachment | None = None

    def __repr__(self) -> str:
        return f"<Run {self.name!r}: {self.status}>"

    @property
    def id(self) -> str:
        """The run's id. It is unique, while a name may be used again."""
        return self._view.id

    @property
    def name(self) -> str:
        """The run's name."""
        return self._view.name

    @property
    def view(self) -> RunView:
        """The run as the server last returned it, with all jobs and attempts. URLs of a service are complete."""
        service = self._service
        if service is None:
            return self._view
        return replace(self._view, service=service, service_url=self.service_url)

    @property
    def status(self) -> RunStatus:
        """The run's status."""
        return self._view.status

    @property
    def backend(self) -> BackendType | None:
        """The backend of the run's first job; None before the job has an instance."""
        return BackendType(self._instance.backend) if self._instance else None

    @property
    def hostname(self) -> str | None:
        """The name or address of the first job's host; None before it is known."""
        return self._instance.hostname if self._instance else None

    @property
    def ports(self) -> dict[int, int] | None:
        """Container port to local port while attached; otherwise None."""
        return dict(self._attachment.ports) if self._attachment else None

    @property
    def ssh_host(self) -> str | None:
        """The name of the job for `ssh` while attached; otherwise None."""
        return self._attachment.host_name if self._attachment else None

    @property
    def editor_url(self) -> str | None:
        """The link that opens a dev environment in its editor while attached; otherwise None."""
        ide = self._view.spec["configuration"].get("ide")
        return self._attachment.editor_url(ide) if self._attachment and ide else None

    @property
    def service_url(self) -> str | None:
        """The URL of a service. It ends with a slash. None for other runs, and once the service has ended.

        Until a replica is ready, requests wait for it, or get status 503 if none starts.

        Examples:
            >>> from dstack.api import Client, Service
            >>> run = Client.from_config().runs.submit(Service(commands=["python -m http.server 8000"], port=8000))
            >>> run.service_url.endswith(f"/proxy/services/{run.view.project}/{run.name}/")
            True
            >>> run.stop(abort=True)
        """
        service = self._service
        return None if service is None or self._view.finished_at is not None else service.url

    @property
    def service_model(self) -> ServiceModelView | None:
        """The model behind a service; None without one.

        Its `name` is the value of `model` in requests, and its `url` is the `base_url` for a client of OpenAI's API.
        """
        return None if self._service is None else self._service.model

    @property
    def _service(self) -> ServiceView | None:
        """The public side of a service, with complete URLs."""
        service, server_url = self._view.service, self._context.transport.answered_url or ""
        if service is None:
            return None
        model = service.model and replace(service.model, url=f"{server_url}{service.model.url}")
        return replace(service, url=f"{server_url}{service.url}", model=model)

    @property
    def exit_code(self) -> int | None:
        """0 if all jobs succeeded, otherwise the exit code of the first job that failed.

        None before the end of the run, and if no exit code is known.
        """
        if not self.status.is_finished():
            return None
        if self.status is RunStatus.DONE:  # jobs that ended because the run was done may have other codes
            return 0
        failed = [job for job in self._view.jobs if job.exit_code]
        if not failed:
            return None

        def rank(job: JobView) -> tuple[object, ...]:
            was_ended = (
                job.reason is JobReason.SERVER
            )  # the server ended it because of the failed job, perhaps before that job's last output was stored
            return was_ended, job.finished_at is None, job.finished_at, job.replica, job.node

        return min(failed, key=rank).exit_code

    @property
    def reason(self) -> str | None:
        """The reason why the run is ending or has ended, such as `stopped_by_user`; None before."""
        return self._view.reason

    @property
    def detail(self) -> str:
        """A text for people: why the run ended, or what it waits for."""
        return self._view.detail

    @property
    def cost(self) -> float:
        """The cost of the run so far, in US dollars.

        Sums all attempts of all jobs: each costs its instance's price from its start to its end.
        """
        now = SystemClock().now()
        return sum(
            price * ((finished_at or now) - started_at).total_seconds() / HOUR_S
            for started_at, finished_at, price in map(_use_of, self._attempts())
            if started_at is not None and price is not None
        )

    def _attempts(self) -> Iterator[JobView | AttemptView]:
        for job in self._view.jobs:
            yield from job.earlier
            yield job

    @property
    def _instance(self) -> InstanceView | None:
        job = self._job(0, 0)
        return job.instance if job else None

    def _attempts_ended(self, replica: int, node: int) -> int:
        """Return how many attempts of a job have ended."""
        job = self._job(replica, node)
        return 0 if job is None else job.attempt - (not job.status.is_finished())

    def _own_end(self, replica: int, node: int, *, after: int) -> JobStatus | None:
        """Return the status of the latest attempt after number `after` that ended by itself; None without one.

        An attempt that ended because of its machine does not count: the next attempt replaces it.
        """
        job = self._job(replica, node)
        attempts: list[JobView | AttemptView] = [] if job is None else [job, *reversed(job.earlier)]
        return next(
            (
                one.status
                for one in attempts
                if one.attempt > after and one.status.is_finished() and one.reason not in MACHINE_REASONS
            ),
            None,
        )

    def _job(self, replica: int, node: int) -> JobView | None:
        return next((job for job in self._view.jobs if (job.replica, job.node) == (replica, node)), None)


def _use_of(attempt: JobView | AttemptView) -> tuple[datetime | None, datetime | None, float | None]:
    """Return the start and end of an attempt, and the price of its instance in US dollars an hour."""
    if isinstance(attempt, AttemptView):
        return attempt.started_at, attempt.finished_at, attempt.price
    price = None if attempt.instance is None else attempt.instance.price
    return attempt.started_at, attempt.finished_at, price
