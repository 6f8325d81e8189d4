"""From a configuration and what was said beside it to the request that the server takes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import BaseModel

from dstack.api._repos import LocalRepo
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import OfferView, PlanView

if TYPE_CHECKING:
    from dstack.spec.backends import BackendType
    from dstack.spec.parse import RunConfiguration
    from dstack.spec.profile import Retry, SpotPolicy
    from dstack.spec.resources import Resources


class Options(TypedDict, total=False):
    """What may be said beside a configuration; it wins over the configuration. See `RunCollection.submit`."""

    configuration_path: str | None
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


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that lacks only the files, and the local ports to take before it is sent."""

    request: SubmitRun
    ports: Mapping[int, int | None]
    """Container port to local port; None stands for any."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a submit would do: pass it to `RunCollection.exec_plan`."""

    draft: Draft
    repo: LocalRepo | None
    view: PlanView

    @property
    def offers(self) -> list[OfferView]:
        """The best offers, cheapest first."""
        return self.view.offers


def draft_of(configuration: "RunConfiguration", options: Options, environ: Mapping[str, str] = os.environ) -> Draft:
    """The request for a configuration, with variables taken from this environment filled in.

    Raises:
        ConfigurationError: an option does not fit, a variable is missing, or the name is none.
    """
    from dstack.spec import env
    from dstack.spec.names import check_name
    from dstack.spec.parse import configuration_of, to_mapping

    said = {name: _plain(value) for name, value in options.items() if value is not None}
    run_name = said.pop("run_name", None) or configuration.name
    path = said.pop("configuration_path", None)
    if run_name is not None:
        check_name(run_name)
    written = to_mapping(configuration)
    if "retry_policy" in said:
        written.pop("retry", None)  # the same wish under its later name; the argument wins
    whole = configuration_of({**written, **said})
    mapping = to_mapping(whole)
    if whole.env:
        mapping["env"] = env.resolve(whole.env, environ)
    return Draft(
        SubmitRun(run_name=run_name, configuration=mapping, configuration_path=path),
        {port.container_port: port.local_port for port in whole.port_mappings()},
    )


def _plain(value: object) -> Any:  # JSON, of whatever shape
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value
