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
    from dstack.spec.repos import RepoSource
    from dstack.spec.resources import Resources


_NO_CALLERS = frozenset(("dstack", "concurrent", "threading"))
"""Packages whose stack frames are not the caller's: this one, and those in which threads begin."""
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
    repos: "Sequence[RepoSource]" = ()
    """The repo in the configuration, unless another was given."""

    @property
    def repo_path(self) -> str:
        """The repo's path in the job."""
        return self.repos[0].path if self.repos else "."


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
        """The jobs of the run, each with its offers. All jobs of a run have the same requirements."""
        from dstack.spec.parse import configuration_of

        view = self.view
        jobs = configuration_of(self.draft.request.configuration).jobs()
        return [JobPlan(job.replica, job.node, view.offers, view.offers_total, view.max_price) for job in jobs]

    @property
    def is_in_place(self) -> bool:
        """Whether a run of this name is active, and all changes can be made while it runs."""
        return self.view.current is not None and all(change.in_place for change in self.changes)


def draft_of(
    configuration: "RunConfiguration",
    options: Options,
    environ: Mapping[str, str] = os.environ,
    *,
    has_repo: bool = False,
) -> Draft:
    """Return the request for a configuration, with variables filled in from this environment.

    Options override the configuration, and the configuration overrides the profile.

    Args:
        configuration: a task, service or dev environment.
        options: options of `RunCollection.submit`, and a profile.
        environ: the environment from which `env` passes variables on.
        has_repo: whether a repo was given, which overrides `repos`.

    Raises:
        ConfigurationError: an option or the name is invalid, or a variable is missing.
    """
    from dstack.protocol.requests import SubmitRun
    from dstack.spec import env
    from dstack.spec.names import check_name
    from dstack.spec.parse import configuration_of, old_spellings, to_mapping
    from dstack.spec.spellings import over

    for text in old_spellings(configuration):
        _warn_caller(text)
    said = {name: _plain(value) for name, value in options.items() if value is not None}
    run_name = said.pop("run_name", None) or configuration.name
    path = said.pop("configuration_path", None)
    profile = {name: value for name, value in said.pop("profile", {}).items() if name not in ("name", "default")}
    if run_name is not None:
        from dstack.api import _ssh_config

        check_name(run_name)
        _ssh_config.check_free(run_name)
    whole = configuration_of(over(over(profile, to_mapping(configuration)), said))
    mapping = to_mapping(whole)
    if whole.env:
        mapping["env"] = env.resolve(whole.env, environ)
    if has_repo:
        mapping.pop("repos", None)
    for repo in mapping.get("repos", ()):
        _forget_password(repo)
    return Draft(
        SubmitRun(run_name=run_name, configuration=mapping, configuration_path=path and _readable(path)),
        {port.container_port: port.local_port for port in whole.port_mappings()},
        whole.files,
        Path(path).parent if path else Path(),
        () if has_repo else whole.repos,
    )


def _forget_password(repo: dict[str, Any]) -> None:
    """Remove user and password from the URL of an entry of `repos`: everyone in the project can read a run's spec."""
    if "url" in repo:
        from dstack.api import _git  # seldom needed

        repo["url"], _ = _git.normal_url(repo["url"])


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
