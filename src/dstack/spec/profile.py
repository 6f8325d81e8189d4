"""How and where to run: the fields that a profile may hold, shared by all run types."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from dstack.kit.units import duration_text, parse_duration
from dstack.spec.backends import BackendType
from dstack.spec.base import Spec

HOUR_S = 3600


class SpotPolicy(StrEnum):
    """Whether spot instances are used."""

    SPOT = "spot"
    ONDEMAND = "on-demand"
    AUTO = "auto"


class CreationPolicy(StrEnum):
    """Whether instances are made, or only those used that there are."""

    REUSE = "reuse"
    REUSE_OR_CREATE = "reuse-or-create"


class TerminationPolicy(StrEnum):
    """What becomes of an instance without jobs."""

    DONT_DESTROY = "dont-destroy"
    DESTROY_AFTER_IDLE = "destroy-after-idle"


class RetryEvent(StrEnum):
    """What may start a run again."""

    NO_CAPACITY = "no-capacity"
    INTERRUPTION = "interruption"
    ERROR = "error"


def _duration(value: object) -> int:
    return parse_duration(value)


def _limit(value: object) -> int | None:
    return None if value is None or value is False or value == "off" else parse_duration(value)


def _limit_text(value: int | None) -> str:
    return "off" if value is None else duration_text(value)


def _max_duration(value: object) -> int | None:
    seconds = _limit(value)
    if seconds == 0:
        raise ValueError("expected at least `1s`, or `off` for no limit, found `0`")
    return seconds


Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(duration_text, when_used="json")]
"""Seconds; written `90s`, `15m`, `2h`, `1d` or as a number."""

Limit = Annotated[int | None, BeforeValidator(_limit), PlainSerializer(_limit_text, when_used="json")]
"""Seconds, or None for no limit, written `off`."""


class Retry(Spec):
    """The policy for resubmitting the run.

    Example:
        >>> Retry(on_events=["interruption"], duration="2h").duration
        7200
    """

    on_events: list[RetryEvent] = list(RetryEvent)
    """What may start the run again: `no-capacity`, `interruption`, `error`"""
    duration: Limit = HOUR_S
    """For how long after the submit"""


def _retry(value: object) -> object:
    return {True: {}, False: None}.get(value, value) if isinstance(value, bool) else value


RetryOrNot = Annotated[Retry | None, BeforeValidator(_retry)]
"""`true` for all events within an hour, `false` for never, or a `Retry`."""


class ProfileFields(Spec):
    """How and where to run."""

    backends: list[BackendType] | None = None
    """The backends to consider for provisioning (e.g., `[aws, gcp]`)"""
    regions: list[str] | None = None
    """The regions to consider for provisioning (e.g., `[eu-west-1, us-west4, westeurope]`)"""
    instance_types: list[str] | None = None
    """The cloud-specific instance types to consider for provisioning (e.g., `[p3.8xlarge, n1-standard-4]`)"""
    reservation: str | None = None
    """The existing reservation for the instances"""
    spot_policy: SpotPolicy = SpotPolicy.ONDEMAND
    """The policy for provisioning spot or on-demand instances: `spot`, `on-demand`, or `auto`"""
    retry: RetryOrNot = None
    """The policy for resubmitting the run"""
    retry_policy: RetryOrNot = None
    """The policy for resubmitting the run. Deprecated in favor of `retry`"""
    max_duration: Annotated[Limit, BeforeValidator(_max_duration)] = None
    """The maximum duration of a run (e.g., `2h`, `1d`). After it elapses, the run is forced to stop. `off` for none"""
    stop_duration: Duration | None = None
    """How long a job that is stopped may take to end by itself. 10 seconds where unset"""
    max_price: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] | None = None
    """The maximum instance price per hour, in dollars"""
    pool_name: str | None = None
    """The name of the pool: the fleet in which instances are sought and made"""
    instance_name: str | None = None
    """The name of the instance"""
    creation_policy: CreationPolicy = CreationPolicy.REUSE_OR_CREATE
    """The policy for using instances from the pool"""
    termination_policy: TerminationPolicy = TerminationPolicy.DESTROY_AFTER_IDLE
    """The policy for instance termination"""
    termination_idle_time: Limit = 300
    """Time to wait before destroying the idle instance"""
    idle_duration: Limit = None
    """The later spelling of `termination_idle_time`"""

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        for name, old_name in (("retry", "retry_policy"), ("idle_duration", "termination_idle_time")):
            if isinstance(value, dict) and value.get(name) is not None and value.get(old_name) is not None:
                raise ValueError(f"expected one of `{name}` and `{old_name}`, found both; `{old_name}` is the old name")
        return value
