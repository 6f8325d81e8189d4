"""From a configuration and what was said beside it to the request that the server takes."""

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import ChangeView, OfferView, PlanView

if TYPE_CHECKING:
    from dstack.api._repos import Repo
    from dstack.spec.backends import BackendType
    from dstack.spec.mounts import FileMapping
    from dstack.spec.parse import RunConfiguration
    from dstack.spec.profile import Profile, Retry, SpotPolicy
    from dstack.spec.resources import Resources


_NO_CALLERS = frozenset(("dstack", "concurrent", "threading"))
"""Packages on a stack that are not who called: this one, and those that threads begin in."""
_WARNED: dict[Any, Any] = {}
"""What the whole program has been warned of, as `warnings` keeps it; as many as there are old spellings."""


class Options(TypedDict, total=False):
    """What may be said beside a configuration; it wins over the configuration. See `RunCollection.submit`."""

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
    """Counts where neither an argument nor the configuration says anything."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that lacks only the files, and the local ports to take before it is sent."""

    request: SubmitRun
    ports: Mapping[int, int | None]
    """Container port to local port; None stands for any."""
    files: "Sequence[FileMapping]" = ()
    """What to send beside the repo."""
    folder: Path = Path()
    """What the paths of `files` are relative to."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What one job of a plan could run on.

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
    """The highest price among all fitting offers, in dollars an hour."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a submit would do: pass it to `RunCollection.exec_plan`.

    Examples:
        >>> from dstack.api import Client, Task
        >>> plan = Client.from_config().runs.get_plan(Task(commands=["echo hello"]))
        >>> plan.offers[0].backend, plan.changes
        ('local', [])
    """

    draft: Draft
    """What would be submitted."""
    repo: "Repo | None"
    """The files that would be sent."""
    view: PlanView
    """All that the server says of it."""
    changes: list[ChangeView]
    """What is not as it is in the active run of this name, where there is one."""

    @property
    def offers(self) -> list[OfferView]:
        """The best offers, cheapest first."""
        return self.view.offers

    @property
    def job_plans(self) -> list[JobPlan]:
        """The jobs of the run, each with its offers. All jobs of a run ask for the same."""
        from dstack.spec.parse import configuration_of

        view = self.view
        jobs = configuration_of(self.draft.request.configuration).jobs()
        return [JobPlan(job.replica, job.node, view.offers, view.offers_total, view.max_price) for job in jobs]

    @property
    def is_in_place(self) -> bool:
        """Whether the active run of this name can go on with all of the changes."""
        return self.view.current is not None and all(change.in_place for change in self.changes)


def draft_of(configuration: "RunConfiguration", options: Options, environ: Mapping[str, str] = os.environ) -> Draft:
    """The request for a configuration, with variables taken from this environment filled in.

    What is said beside the configuration wins over it, and it wins over the profile.

    Raises:
        ConfigurationError: an option does not fit, a variable is missing, or the name is none.
    """
    from dstack.api import _ssh_config
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
        check_name(run_name)
        _ssh_config.check_free(run_name)
    whole = configuration_of(over(over(profile, to_mapping(configuration)), said))
    mapping = to_mapping(whole)
    if whole.env:
        mapping["env"] = env.resolve(whole.env, environ)
    return Draft(
        SubmitRun(run_name=run_name, configuration=mapping, configuration_path=path and _readable(path)),
        {port.container_port: port.local_port for port in whole.port_mappings()},
        whole.files,
        Path(path).parent if path else Path(),
    )


def _warn_caller(text: str) -> None:
    """Warn of something old in the line of the program that led here, wherever in this package it came in.

    A thread (`dstack.api.aio` uses some) does not know that line: then the whole program is warned.
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
    """For people: bytes of a file's name that are no text become `?`."""
    return os.fspath(path).encode(errors="replace").decode()


def _plain(value: object) -> Any:  # JSON, of whatever shape
    from dstack.spec.base import Spec
    from dstack.spec.parse import to_mapping

    if isinstance(value, Spec):
        return to_mapping(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value
