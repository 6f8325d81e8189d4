"""Turn a configuration and options into the request that the server accepts."""

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dstack.protocol.views import ChangeView, OfferView, PlanView

if TYPE_CHECKING:
    from dstack.api._repos import Repo
    from dstack.protocol.requests import SubmitRun
    from dstack.spec.backends import BackendType
    from dstack.spec.configurations import RunConfiguration
    from dstack.spec.mounts import FileMapping
    from dstack.spec.profile import Profile, Retry, SpotPolicy
    from dstack.spec.reading import Reading
    from dstack.spec.resources import Resources


_NO_CALLERS = frozenset(("dstack", "concurrent", "threading"))
"""Packages whose stack frames are not the caller's: this one, and those in which threads begin."""
_BESIDE = ("run_name", "configuration_path")
"""Options beside the fields of a configuration."""
_WARNED: dict[Any, Any] = {}
"""Warnings that the whole program has got, as `warnings` keeps them; at most one for each old spelling."""


class Options(TypedDict, total=False):
    """Options of a run, which override its configuration. See `RunCollection.submit`."""

    configuration_path: str | os.PathLike[str] | None
    backends: "Sequence[BackendType | str] | None"
    regions: Sequence[str] | None
    instance_types: Sequence[str] | None
    resources: "Resources | None"
    spot_policy: "SpotPolicy | str | None"
    retry_policy: "Retry | bool | None"
    max_duration: int | str | None
    max_price: float | None
    working_dir: str | None
    run_name: str | None
    profile: "Profile | None"
    """Fields that apply where neither an option nor the configuration sets them."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A request without its files, and the local ports to bind before it is sent."""

    request: "SubmitRun"
    ports: Mapping[int, int | None]
    """Container port to local port; None stands for any."""
    files: "Sequence[FileMapping]" = ()
    """Files and folders to send with the repo."""
    folder: Path = Path()
    """The folder to which the paths of `files` and `repos` are relative."""
    repos: Sequence[Mapping[str, Any]] = ()
    """The repo in the configuration as written (`spec.repos.RepoSource`), unless another was given."""

    @property
    def repo_path(self) -> str:
        """The repo's path in the job."""
        return str(self.repos[0].get("path", ".")) if self.repos else "."


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The offers for one job of a plan.

    Examples:
        >>> from dstack.api import Client, Task
        >>> plan = Client.from_config().runs.get_plan(Task(commands=["echo hello"]))
        >>> [job.offers[0].backend for job in plan.job_plans]
        ['local']
    """

    replica: int
    node: int
    offers: list[OfferView]
    """The best offers, cheapest first."""
    total_offers: int
    max_price: float | None
    """The highest price among all fitting offers, in US dollars an hour."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The effect of a submit before it happens. Pass it to `RunCollection.exec_plan`.

    Examples:
        >>> from dstack.api import Client, Task
        >>> plan = Client.from_config().runs.get_plan(Task(commands=["echo hello"]))
        >>> plan.offers[0].backend, plan.changes
        ('local', [])
    """

    draft: Draft
    """The request to submit."""
    repo: "Repo | None"
    """The run's files; None if it has none."""
    view: PlanView
    """The plan as the server returned it."""
    changes: list[ChangeView]
    """Differences from the active run of this name; empty if no such run is active."""

    @property
    def offers(self) -> list[OfferView]:
        """The best offers, cheapest first."""
        return self.view.offers

    @property
    def job_plans(self) -> list[JobPlan]:
        """The jobs with which the run begins, each with its offers. All jobs of a run have the same requirements.

        A service without replicas has the job of its first one.
        """
        from dstack.spec.parse import configuration_of
        from dstack.spec.run import JobSpec

        view = self.view
        jobs = configuration_of(self.draft.request.configuration).jobs() or (JobSpec(0, 0, 1),)
        return [JobPlan(job.replica, job.node, view.offers, view.offers_total, view.max_price) for job in jobs]

    @property
    def is_in_place(self) -> bool:
        """Whether a run of this name is active, and all changes can be made while it runs."""
        return self.view.current is not None and all(change.in_place for change in self.changes)

    @property
    def is_update(self) -> bool:
        """Whether a run of this name is active and goes on with all changes: in place, or replica by replica."""
        return self.view.current is not None and all(change.in_place or change.by_rollout for change in self.changes)


def reading_of(configuration: "RunConfiguration", options: Options) -> "Reading":
    """Return the canonical form of a configuration, which overrides the profile. Options override both.

    Args:
        configuration: a task, service or dev environment.
        options: options of `RunCollection.submit`, and a profile.

    Raises:
        ConfigurationError: an option is invalid.
    """
    from dstack.spec.mistakes import Mistaken
    from dstack.spec.parse import old_spellings, to_mapping
    from dstack.spec.reading import canonical

    for note in old_spellings(configuration, configuration.written()):
        _warn_caller(note.text)
    said = {name: _plain(value) for name, value in options.items() if value is not None and name not in _BESIDE}
    profile = said.pop("profile", {})
    try:
        return canonical(to_mapping(configuration), profile, said)
    except Mistaken as error:
        raise error.with_fields() from None


def draft_of(
    reading: "Reading",
    run_name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    has_repo: bool = False,
) -> Draft:
    """Return the request for a configuration, with variables filled in from this environment.

    Args:
        reading: the configuration in canonical form.
        run_name: the run's name; by default that of the configuration.
        path: the path of the configuration's file.
        environ: the environment from which `env` passes variables on.
        has_repo: whether a repo was given, which overrides `repos`.

    Raises:
        ConfigurationError: the name is invalid, or a variable is missing.
    """
    from dstack.protocol.requests import SubmitRun

    mapping = dict(reading.configuration)
    run_name = run_name or mapping.get("name")
    if run_name is not None:
        from dstack.api import _ssh_config
        from dstack.spec.names import check_name

        check_name(run_name)
        _ssh_config.check_free(run_name)
    if mapping.get("env"):
        from dstack.spec import env

        mapping["env"] = env.resolve(mapping["env"], environ)
    repos = [] if has_repo else mapping.get("repos", [])
    if has_repo:
        mapping.pop("repos", None)
    elif repos:
        mapping["repos"] = [_without_password(repo) for repo in repos]
    return Draft(
        SubmitRun(run_name=run_name, configuration=mapping, configuration_path=_readable(path) if path else None),
        reading.ports,
        _files(mapping.get("files", ())),
        Path(path).parent if path else Path(),
        repos,
    )


def _files(written: Sequence[str]) -> "Sequence[FileMapping]":
    if not written:
        return ()
    from dstack.spec.mounts import FileMapping  # seldom needed

    return [FileMapping.parse(one) for one in written]


def _without_password(repo: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of `repos` without user and password: everyone in the project can read a run's spec."""
    if repo.get("url") is None:
        return repo
    from dstack.api import _git  # seldom needed

    return {**repo, "url": _git.normal_url(repo["url"])[0]}


def _warn_caller(text: str) -> None:
    """Warn of an old spelling at the program's line that called this package.

    In a thread (such as those of `dstack.api.aio`) that line is unknown: then the whole program is warned once.
    """
    frame, level = sys._getframe(), 1
    while frame.f_globals.get("__name__", "").partition(".")[0] in _NO_CALLERS:
        if frame.f_back is None:
            program = getattr(sys.modules.get("__main__"), "__file__", None) or "<program>"
            warnings.warn_explicit(text, DeprecationWarning, program, 0, module="__main__", registry=_WARNED)
            return
        frame, level = frame.f_back, level + 1
    warnings.warn(text, DeprecationWarning, stacklevel=level)


def _readable(path: str | os.PathLike[str]) -> str:
    """Return a path for people: bytes that are not text become `?`."""
    return os.fspath(path).encode(errors="replace").decode()


def _plain(value: object) -> Any:  # JSON of any shape
    from dstack.spec.base import Spec
    from dstack.spec.parse import to_mapping

    if isinstance(value, Spec):
        return to_mapping(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value
