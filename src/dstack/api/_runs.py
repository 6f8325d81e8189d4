"""The runs of a project: plan, submit, find and delete them."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from msgspec.structs import asdict, replace

from dstack.api import _ports
from dstack.api._context import Context
from dstack.api._keys import identity
from dstack.api._run import Run
from dstack.api._submissions import Draft, Options, RunPlan, draft_of, reading_of
from dstack.errors import ResourceNotExistsError
from dstack.kit.text import is_segment
from dstack.protocol import routes
from dstack.protocol.requests import SubmitRun, UpdateRun
from dstack.protocol.views import ChangeView, PlanView, RunPage, RunView

if TYPE_CHECKING:
    from dstack.api._files import Progress
    from dstack.api._repos import Repo
    from dstack.spec.backends import BackendType
    from dstack.spec.configurations import RunConfiguration
    from dstack.spec.profile import Profile, Retry, SpotPolicy
    from dstack.spec.reading import Reading
    from dstack.spec.resources import Resources

PAGE_RUNS = 100


class RunCollection:
    """The runs of one project.

    Examples:
        >>> from dstack.api import Client
        >>> Client.from_config().runs.get("no-such-run") is None
        True
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, run_name: str) -> Run | None:
        """Return a run, or None if it is missing.

        Args:
            run_name: the run's name, or its id. Of several runs with one name, the latest is returned.

        Examples:
            >>> from dstack.api import Client, Task
            >>> runs = Client.from_config().runs
            >>> run = runs.submit(Task(commands=["true"]), run_name="found")
            >>> runs.get("found").id == run.id
            True
        """
        if not is_segment(run_name):
            return None
        try:
            view = self._context.transport.call(routes.GET_RUN, project=self._context.project, run=run_name)
        except ResourceNotExistsError:
            return None
        return Run(self._context, view)

    def submit(  # noqa: PLR0913 - the arguments that programs know it by
        self,
        configuration: "RunConfiguration",
        configuration_path: str | os.PathLike[str] | None = None,
        repo: "Repo | None" = None,
        backends: "Sequence[BackendType | str] | None" = None,
        regions: Sequence[str] | None = None,
        instance_types: Sequence[str] | None = None,
        resources: "Resources | None" = None,
        spot_policy: "SpotPolicy | str | None" = None,
        retry_policy: "Retry | bool | None" = None,
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
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["echo hello"]))
            >>> b"".join(run.logs())
            b'hello\\n'

        Raises:
            ConfigurationError: the configuration or an argument is invalid.
            PortUsedError: a local port is in use or not permitted; nothing was created.
            ResourceExistsError: a run of that name is active.
            NoCapacityError: no machine fits, with the reasons.
            RepoDoesNotExistError: the remote repo is not initialized in the project.
        """
        options = Options(
            configuration_path=configuration_path,
            backends=backends,
            regions=regions,
            instance_types=instance_types,
            resources=resources,
            spot_policy=spot_policy,
            retry_policy=retry_policy,
            max_duration=max_duration,
            max_price=max_price,
            working_dir=working_dir,
            run_name=run_name,
        )
        return self._submit(*self._draft(configuration, options, repo), reserve_ports=reserve_ports)

    def get_plan(
        self, configuration: "RunConfiguration | Reading", repo: "Repo | None" = None, **options: Unpack[Options]
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
            >>> from dstack.api import Client, Task
            >>> plan = Client.from_config().runs.get_plan(Task(commands=["echo hello"]))
            >>> plan.offers[0].backend
            'local'
        """
        draft, repo = self._draft(configuration, options, repo)
        view: PlanView = self._context.transport.call(routes.PLAN_RUN, draft.request, project=self._context.project)
        return RunPlan(draft, repo, view, [*view.changes, *self._changed_files(draft, repo, view.current)])

    def exec_plan(
        self,
        plan: RunPlan,
        repo: "Repo | None" = None,
        reserve_ports: "bool | _ports.Reservation" = True,
        progress: "Progress | None" = None,
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
            >>> from dstack.api import Client, Task
            >>> runs = Client.from_config().runs
            >>> run = runs.exec_plan(runs.get_plan(Task(commands=["echo hello"])))
            >>> b"".join(run.logs())
            b'hello\\n'
        """
        current = plan.view.current
        if current is not None and plan.is_update:
            request = plan.draft.request
            if not plan.is_in_place:
                request = self._completed(plan.draft, repo or plan.repo, progress)
            update = UpdateRun(**asdict(request), force=force)
            view = self._context.transport.outlast(
                routes.UPDATE_RUN, update, project=self._context.project, run=current.id
            )
            return Run(self._context, view)
        return self._submit(plan.draft, repo or plan.repo, reserve_ports=reserve_ports, progress=progress)

    def get_run_plan(
        self,
        configuration: "RunConfiguration",
        repo: "Repo | None" = None,
        profile: "Profile | None" = None,
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
            >>> from dstack.api import Client, Task
            >>> Client.from_config().runs.get_run_plan(Task(commands=["echo hello"])).view.project
            'main'
        """
        return self.get_plan(configuration, repo, profile=profile, configuration_path=configuration_path)

    def apply_plan(self, run_plan: RunPlan, repo: "Repo | None" = None, reserve_ports: bool = True) -> Run:
        """Execute a plan; a later spelling of `exec_plan`.

        Args:
            run_plan: the plan from `get_run_plan`.
            repo: the run's files, if the plan was made without them.
            reserve_ports: whether to bind the local ports first.

        Raises:
            ConfigurationError, PortUsedError, NoCapacityError, ResourceExistsError: as for `exec_plan`.

        Examples:
            >>> from dstack.api import Client, Task
            >>> runs = Client.from_config().runs
            >>> runs.apply_plan(runs.get_run_plan(Task(commands=["true"], name="applied"))).name
            'applied'
        """
        return self.exec_plan(run_plan, repo, reserve_ports)

    def apply_configuration(
        self,
        configuration: "RunConfiguration",
        repo: "Repo | None" = None,
        profile: "Profile | None" = None,
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
            >>> from dstack.api import Client, Task
            >>> Client.from_config().runs.apply_configuration(Task(commands=["true"], name="at-once")).name
            'at-once'
        """
        plan = self.get_run_plan(configuration, repo, profile, configuration_path)
        return self.apply_plan(plan, repo, reserve_ports)

    def delete(self, run_name: str) -> None:
        """Delete a finished run with its events and logs.

        Args:
            run_name: the run's name or id.

        Raises:
            ResourceNotExistsError: the run is missing.
            InvalidRequestError: the run has not finished.

        Examples:
            >>> from dstack.api import Client, Task
            >>> runs = Client.from_config().runs
            >>> run = runs.submit(Task(commands=["true"]), run_name="old")
            >>> b"".join(run.logs())
            b''
            >>> runs.delete("old")
            >>> runs.get("old") is None
            True
        """
        self._context.transport.call(routes.DELETE_RUN, project=self._context.project, run=run_name)

    def _changed_files(self, draft: Draft, repo: "Repo | None", current: RunView | None) -> list[ChangeView]:
        """Return the change of files against the active run, in a list that is empty without one."""
        if current is None:
            return []
        asked = self._context.repos.planned(repo, draft.files, draft.folder, draft.repo_path)
        old = current.spec.get("repo") or {}
        new = {} if asked is None else asdict(asked)
        fields = ("id", "root", "url", "branch", "hash")
        if [old.get(field) for field in fields] == [new.get(field) for field in fields]:
            return []
        is_service = current.type == draft.request.configuration.get("type") == "service"
        return [
            ChangeView(field="files", old=_of_files(old), new=_of_files(new), in_place=False, by_rollout=is_service)
        ]

    def _draft(
        self, configuration: "RunConfiguration | Reading", options: Options, repo: "Repo | None"
    ) -> "tuple[Draft, Repo | None]":
        """Return the request, and the repo: the one that was given, or that of `repos`."""
        from dstack.spec.reading import Reading

        reading = configuration if isinstance(configuration, Reading) else reading_of(configuration, options)
        name, path = options.get("run_name"), options.get("configuration_path")
        draft = draft_of(reading, name, path, has_repo=repo is not None)
        if draft.repos:
            from dstack.api import _named_repos  # seldom needed, and commands start often

            repo = _named_repos.repo_of(self._context.repos, draft.repos[0], draft.folder)
        self._context.repos.check(repo)
        return draft, repo

    def _submit(
        self,
        draft: Draft,
        repo: "Repo | None",
        *,
        reserve_ports: "bool | _ports.Reservation",
        progress: "Progress | None" = None,
    ) -> Run:
        if isinstance(reserve_ports, _ports.Reservation):
            reserved: _ports.Reservation | None = reserve_ports
        else:
            reserved = _ports.Reservation(draft.ports) if reserve_ports else None
        try:
            request = self._completed(draft, repo, progress)
            view = self._context.transport.outlast(routes.SUBMIT_RUN, request, project=self._context.project)
        except BaseException:
            if reserved is not None:
                reserved.release()
            raise
        return Run(self._context, view, reserved)

    def _completed(self, draft: Draft, repo: "Repo | None", progress: "Progress | None") -> SubmitRun:
        """Send the files; return the request with them and with the user's key."""
        if draft.repos and repo is not None:
            from dstack.api import _named_repos

            _named_repos.ensure(self._context.repos, repo)
        files = self._context.repos.upload(repo, draft.files, draft.folder, progress, draft.repo_path)
        key = identity(self._context.ssh_identity_file)
        return replace(draft.request, repo=files, ssh_public_key=key.public_key, path=self._context.path())

    def list(self, all: bool = False) -> list[Run]:
        """Return the unfinished runs, newest first; if all have finished, the last one.

        Args:
            all: whether to return finished runs too.

        Examples:
            >>> from dstack.api import Client, Task
            >>> runs = Client.from_config().runs
            >>> run = runs.submit(Task(commands=["true"]), run_name="listed")
            >>> "listed" in [one.name for one in runs.list(all=True)]
            True
        """
        runs: list[Run] = []
        before: str | None = None
        while True:
            query = {"all": all, "limit": PAGE_RUNS, "before": before}
            page: RunPage = self._context.transport.call(routes.LIST_RUNS, query=query, project=self._context.project)
            runs += (Run(self._context, view) for view in page.runs)
            before = page.next
            if before is None:
                return runs


def _of_files(repo: Mapping[str, Any]) -> str | None:
    """Describe the files of a run for people; None if it has none."""
    if not repo:
        return None
    commit = f"{repo['url']} at {repo.get('hash') or repo.get('branch') or 'HEAD'}" if repo.get("url") else ""
    sent = f"upload {repo['root'][:12]}" if repo.get("root") else ""
    return " with ".join(filter(None, [commit, sent])) or str(repo.get("id"))
