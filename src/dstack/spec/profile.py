"""The fields of a profile, shared by all run types: where to run, for how long, and at which price."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from dstack.kit.text import listed, shown
from dstack.kit.units import duration_text, parse_duration
from dstack.spec.backends import BackendType, is_type
from dstack.spec.base import TEXT, TRUTH, Also, Conflict, Spec, Text
from dstack.spec.names import OBJECT_NAME, parse_name

HOUR_S = 3600
IDLE_S = 300
WINDOW_MIN_S = 300
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class SpotPolicy(StrEnum):
    """The use of spot instances.

    Examples:
        >>> SpotPolicy("auto") is SpotPolicy.AUTO
        True
    """

    SPOT = "spot"
    ONDEMAND = "on-demand"
    AUTO = "auto"


class CreationPolicy(StrEnum):
    """The choice to create instances, or to use only existing ones."""

    REUSE = "reuse"
    REUSE_OR_CREATE = "reuse-or-create"


class TerminationPolicy(StrEnum):
    """The handling of an instance without jobs."""

    DONT_DESTROY = "dont-destroy"
    DESTROY_AFTER_IDLE = "destroy-after-idle"


class RetryEvent(StrEnum):
    """An event after which a run may be submitted again."""

    NO_CAPACITY = "no-capacity"
    INTERRUPTION = "interruption"
    ERROR = "error"


def _duration(value: object) -> int:
    return parse_duration(value)


def _limit(value: object) -> int | None:
    return None if _is_off(value) else parse_duration(value)


def _is_off(value: object) -> bool:
    return value is None or value is False or value == "off"


def _limit_text(value: int | None) -> str:
    return "off" if value is None else duration_text(value)


def _max_duration(value: object) -> int | None:
    seconds = _limit(value)
    if seconds == 0:
        raise ValueError("expected at least `1s`, or `off` for no limit, found `0`")
    return seconds


def _stop_duration(value: object) -> object:
    if value is not None and _is_off(value):
        expected = "expected a duration such as `90s` or `15m`"
        raise ValueError(f"{expected}, found `off`; a stopped job must end at some time")
    return value


Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(duration_text, when_used="json"), Also((TEXT,))]
"""A time in seconds; written as a number, or as `90s`, `15m`, `2h`, `1d`."""

Limit = Annotated[
    int | None,
    BeforeValidator(_limit),
    PlainSerializer(_limit_text, when_used="json"),
    Also((TEXT, {"const": False})),
]
"""A time in seconds, or None for no limit, written `off`."""

Name = Annotated[str, AfterValidator(parse_name)]


def _fleet_name(value: str) -> str:
    project, slash, name = value.rpartition("/")
    parse_name(name)
    if slash and not project:
        raise ValueError(f"expected a fleet such as `team` or `project/team`, found {shown(value)}")
    return value


FleetName = Annotated[str, AfterValidator(_fleet_name)]
"""The name of a fleet, or `project/name` for one of another project."""


def _backend(value: str) -> str:
    if not is_type(value) and not OBJECT_NAME.fullmatch(value):
        raise ValueError(f"expected the type of a backend, such as `aws`, or the name of one, found {shown(value)}")
    return value


BackendWord = Annotated[
    str,
    AfterValidator(_backend),
    WithJsonSchema({"anyOf": [{"enum": [*BackendType]}, {"type": "string", "pattern": f"^{OBJECT_NAME.pattern}$"}]}),
]
"""The type of a backend, or the name of one. Only a server knows the names: `why_unknown` judges them there."""


class Retry(Spec):
    """The policy by which a failed run is submitted again.

    Examples:
        >>> Retry(on_events=["interruption"], duration="2h").duration
        7200
    """

    on_events: list[RetryEvent] = list(RetryEvent)
    """The events that lead to a retry: `no-capacity`, `interruption`, `error`. All of them by default"""
    duration: Limit = HOUR_S
    """The time after the first of several failures in which to retry, in seconds or as `2h`; `off` for no limit.
    `1h` by default"""


def _retry(value: object) -> object:
    if isinstance(value, dict) and isinstance(value.get("retry"), bool):
        return _old_retry(value)
    return {True: {}, False: None}.get(value, value) if isinstance(value, bool) else value


def _old_retry(value: Mapping[str, object]) -> object:
    """Return the policy of the old form `retry: true` with `duration` (or `limit`): retry only on lack of capacity."""
    rest = {"duration" if name == "limit" else name: part for name, part in value.items() if name != "retry"}
    return {"on_events": [RetryEvent.NO_CAPACITY], **rest} if value["retry"] else None


RetryOrNot = Annotated[Retry | None, BeforeValidator(_retry), Also((TRUTH,), "`true`, `false`")]
"""`true` for all events within an hour, `false` for no retry, or a `Retry`."""


CRON_PARTS = 5
_CRON_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def _cron(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_cron(text: str) -> str:
    from cronsim import CronSim, CronSimError

    line = _CRON_NAMES.get(text.strip().lower(), text)
    if (found := len(line.split())) != CRON_PARTS:
        if line.startswith("@"):
            raise ValueError(f"expected one of {listed(_CRON_NAMES)}, found {shown(line)}")
        raise ValueError(f"expected five parts such as `0 8 * * mon-fri`, found {found} in {shown(line)}")
    try:
        CronSim(line, _ANY_TIME)
    except CronSimError as error:
        raise ValueError(f"expected five parts such as `0 8 * * mon-fri`, found {shown(line)}: {error}") from None
    return line


def _check_any(value: list[str]) -> list[str]:
    if not value:
        raise ValueError("expected a cron expression such as `0 8 * * mon-fri`, found none")
    return value


CronLine = Annotated[str, AfterValidator(_check_cron)]


class Schedule(Spec):
    """The times at which a run starts by itself.

    Examples:
        >>> Schedule(cron="0 8 * * mon-fri").cron
        ['0 8 * * mon-fri']
    """

    cron: Annotated[list[CronLine], BeforeValidator(_cron), AfterValidator(_check_any), Also((TEXT,))]
    """A cron expression in UTC, such as `0 8 * * mon-fri`, or a list of them"""


def _window(value: int) -> int:
    if value < WINDOW_MIN_S:
        raise ValueError(f"expected at least `{duration_text(WINDOW_MIN_S)}`, found `{duration_text(value)}`")
    return value


class UtilizationPolicy(Spec):
    """The policy that ends a run with idle GPUs.

    Examples:
        >>> UtilizationPolicy(min_gpu_utilization=10, time_window="1h").time_window
        3600
    """

    min_gpu_utilization: Annotated[int, Field(ge=0, le=100, strict=True)]
    """The utilization that each GPU must reach at least once within the window, in percent"""
    time_window: Annotated[Duration, AfterValidator(_window)]
    """The window, in seconds or as `1h`; at least `5m`"""


def idle_conflicts(written: Mapping[str, Any]) -> Iterator[Conflict]:
    """Yield the conflict of an idle instance that one field keeps and another ends after a time."""
    ends = not _is_off(written.get("idle_duration"))
    if ends and written.get("termination_policy") == TerminationPolicy.DONT_DESTROY:
        told = "expected one of `idle_duration` and `termination_policy: dont-destroy`, found both"
        yield Conflict("termination_policy", f"{told}; `idle_duration: off` is the new spelling")


Price = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Tags = Annotated[dict[str, Text], Field(max_length=50)]


class ProfileFields(Spec):
    """The fields that profiles and run configurations share."""

    backends: list[BackendWord] | None = None
    """The backends that may be used, by type or by name, such as `[aws, research]`. Any by default"""
    regions: list[str] | None = None
    """The regions that may be used, such as `[eu-west-1, us-west4]`. Any by default"""
    availability_zones: list[str] | None = None
    """The availability zones that may be used, such as `[eu-west-1a]`. Any by default"""
    instance_types: list[str] | None = None
    """The instance types that may be used, by the backends' own names, such as `[p3.8xlarge]`. Any by default"""
    reservation: Text | None = None
    """The reservation at the cloud from which to take instances"""
    spot_policy: SpotPolicy = SpotPolicy.ONDEMAND
    """The use of spot instances: `spot`, `on-demand` or `auto` for both"""
    retry: RetryOrNot = None
    """Whether and when to submit a failed run again: `true`, `false` or a mapping. No retry by default"""
    retry_policy: RetryOrNot = None
    """The old name of `retry`"""
    max_duration: Annotated[Limit, BeforeValidator(_max_duration)] = None
    """The longest time that a job may run before it is stopped, in seconds or as `2h`. `off` (no limit) by default"""
    stop_duration: Annotated[Duration | None, BeforeValidator(_stop_duration)] = None
    """The grace period of a stopped job before it is killed, in seconds or as `1m`. 10 seconds by default"""
    max_price: Price | None = None
    """The highest price of an instance, in US dollars an hour"""
    fleets: list[FleetName] | None = None
    """The fleets in which to find or create instances. Any by default"""
    pool_name: str | None = None
    """The fleet in which to find or create instances; *pool* is an old word for fleet"""
    instances: list[Text | dict[str, Text]] | None = None
    """The instances on which to run, by name. Any by default"""
    instance_name: str | None = None
    """The one instance on which to run, by name"""
    creation_policy: CreationPolicy = CreationPolicy.REUSE_OR_CREATE
    """Whether instances may be created: `reuse-or-create`, or `reuse` for existing instances only"""
    termination_policy: TerminationPolicy = TerminationPolicy.DESTROY_AFTER_IDLE
    """The handling of an instance without jobs: `destroy-after-idle` or `dont-destroy`"""
    termination_idle_time: Limit = IDLE_S
    """The old name of `idle_duration`"""
    idle_duration: Limit = IDLE_S
    """The time without jobs after which an instance is terminated, in seconds or as `1h`. `5m` by default"""
    schedule: Schedule | None = None
    """The times at which the run starts by itself"""
    startup_order: Literal["any", "master-first", "workers-first"] = "any"
    """The order in which nodes start: `any`, `master-first` or `workers-first`"""
    stop_criteria: Literal["all-done", "master-done"] = "all-done"
    """The end of a run of several nodes: once all are done (`all-done`), or once node 0 is done (`master-done`)"""
    utilization_policy: UtilizationPolicy | None = None
    """The policy that ends the run if its GPUs are idle"""
    tags: Tags = {}
    """Tags of the run, and of all that is created for it at a cloud: up to 50 names with values"""

    renamed: ClassVar[Mapping[str, str]] = {"retry_policy": "retry", "termination_idle_time": "idle_duration"}

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from idle_conflicts(written)
        if written.get("pool_name") is not None and written.get("fleets") is not None:
            yield Conflict("pool_name", "expected one of `fleets` and `pool_name`, found both; a pool is a fleet")


class Profile(ProfileFields):
    """A named set of fields that several configurations share.

    Examples:
        >>> Profile(name="cheap", spot_policy="auto", max_price=1.5).name
        'cheap'
    """

    name: Annotated[Text, Field(min_length=1)]
    """The profile's name; any characters"""
    default: bool = False
    """Whether the profile applies when none is named"""


class Profiles(Spec):
    """The file `.dstack/profiles.yml`.

    Examples:
        >>> Profiles(profiles=[Profile(name="cheap", default=True)]).chosen(None).name
        'cheap'
    """

    profiles: list[Profile]
    """All profiles"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the profiles, as `Spec.conflicts`."""
        found = written.get("profiles")
        profiles = found if isinstance(found, list) else []
        names = [name for one in profiles if isinstance(name := _read(one, "name"), str)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Conflict("profiles", f"expected each name once, found two profiles `{name}`")
        if sum(_read(one, "default") is True for one in profiles) > 1:
            yield Conflict("profiles", "expected one profile with `default: true`, found more")

    def chosen(self, name: str | None) -> Profile | None:
        """Return the profile of that name, or the default profile for None; None without one."""
        return next((one for one in self.profiles if (one.default if name is None else one.name == name)), None)


def _read(one: object, field: str) -> object:
    return one.get(field) if isinstance(one, dict) else getattr(one, field, None)
