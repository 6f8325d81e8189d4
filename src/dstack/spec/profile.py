"""How and where to run: the fields that a profile may hold, shared by all run types."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from dstack.kit.text import listed, shown
from dstack.kit.units import duration_text, parse_duration
from dstack.spec.backends import BackendType
from dstack.spec.base import TEXT, TRUTH, Also, Conflict, Spec, Text
from dstack.spec.names import parse_name

HOUR_S = 3600
IDLE_S = 300
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class SpotPolicy(StrEnum):
    """Whether spot instances are used.

    Examples:
        >>> SpotPolicy("auto") is SpotPolicy.AUTO
        True
    """

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
        raise ValueError(f"{expected}, found `off`; what is stopped must end at some time")
    return value


Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(duration_text, when_used="json"), Also((TEXT,))]
"""Seconds; written `90s`, `15m`, `2h`, `1d` or as a number."""

Limit = Annotated[
    int | None,
    BeforeValidator(_limit),
    PlainSerializer(_limit_text, when_used="json"),
    Also((TEXT, {"const": False})),
]
"""Seconds, or None for no limit, written `off`."""

Name = Annotated[str, AfterValidator(parse_name)]


def _fleet_name(value: str) -> str:
    project, slash, name = value.rpartition("/")
    parse_name(name)
    if slash and not project:
        raise ValueError(f"expected a fleet such as `team` or `project/team`, found {shown(value)}")
    return value


FleetName = Annotated[str, AfterValidator(_fleet_name)]
"""The name of a fleet, or `project/name` for one of another project."""


class Retry(Spec):
    """When a run is submitted again after it has failed.

    Examples:
        >>> Retry(on_events=["interruption"], duration="2h").duration
        7200
    """

    on_events: list[RetryEvent] = list(RetryEvent)
    """After which events: `no-capacity`, `interruption`, `error`. All of them where unset"""
    duration: Limit = HOUR_S
    """For how long a row of failures is tried again, in seconds or as `2h`. `1h` where unset, `off` for ever"""


def _retry(value: object) -> object:
    if isinstance(value, dict) and isinstance(value.get("retry"), bool):
        return _old_retry(value)
    return {True: {}, False: None}.get(value, value) if isinstance(value, bool) else value


def _old_retry(value: Mapping[str, object]) -> object:
    """Return the policy of `retry: true` beside `duration` (or `limit`), which meant a lack of capacity alone."""
    rest = {"duration" if name == "limit" else name: part for name, part in value.items() if name != "retry"}
    return {"on_events": [RetryEvent.NO_CAPACITY], **rest} if value["retry"] else None


RetryOrNot = Annotated[Retry | None, BeforeValidator(_retry), Also((TRUTH,))]
"""`true` for all events within an hour, `false` for never, or a `Retry`."""


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
    """When a run starts by itself, again and again.

    Examples:
        >>> Schedule(cron="0 8 * * mon-fri").cron
        ['0 8 * * mon-fri']
    """

    cron: Annotated[list[CronLine], BeforeValidator(_cron), AfterValidator(_check_any), Also((TEXT,))]
    """A cron expression in UTC, or several"""


class UtilizationPolicy(Spec):
    """Ends a run that does not use the GPUs it holds.

    Examples:
        >>> UtilizationPolicy(min_gpu_utilization=10, time_window="1h").time_window
        3600
    """

    min_gpu_utilization: Annotated[int, Field(ge=0, le=100, strict=True)]
    """How busy each GPU must be at some time in the window, in percent"""
    time_window: Annotated[Duration, Field(ge=300)]
    """How long a GPU may be less busy, in seconds or as `1h`; at least `5m`"""


def idle_conflicts(written: Mapping[str, Any]) -> Iterator[Conflict]:
    """An instance without jobs that is kept, by the one field, and ended after a time, by the other."""
    ends = not _is_off(written.get("idle_duration"))
    if ends and written.get("termination_policy") == TerminationPolicy.DONT_DESTROY:
        told = "expected one of `idle_duration` and `termination_policy: dont-destroy`, found both"
        yield Conflict("termination_policy", f"{told}; `idle_duration: off` is the new spelling")


Price = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Tags = Annotated[dict[str, Text], Field(max_length=50)]


class ProfileFields(Spec):
    """How and where to run."""

    backends: list[BackendType] | None = None
    """Which backends may be used, such as `[aws, gcp]`; any where unset"""
    regions: list[str] | None = None
    """Which regions of those backends may be used, such as `[eu-west-1, us-west4]`; any where unset"""
    availability_zones: list[str] | None = None
    """Which availability zones of those regions may be used, such as `[eu-west-1a]`; any where unset"""
    instance_types: list[str] | None = None
    """Which instance types may be used, by the backends' own names, such as `[p3.8xlarge]`; any where unset"""
    reservation: str | None = None
    """A reservation at the cloud, from which instances are taken"""
    spot_policy: SpotPolicy = SpotPolicy.ONDEMAND
    """Whether spot instances are used: `spot`, `on-demand` or `auto` for both"""
    retry: RetryOrNot = None
    """Whether and when a run that failed is submitted again. Never where unset"""
    retry_policy: RetryOrNot = None
    """The old name of `retry`"""
    max_duration: Annotated[Limit, BeforeValidator(_max_duration)] = None
    """The longest time a job may run, in seconds or as `2h`; then it is stopped. `off` (no limit) where unset"""
    stop_duration: Annotated[Duration | None, BeforeValidator(_stop_duration)] = None
    """How long a job that is stopped may take to end by itself, in seconds or as `1m`. 10 seconds where unset"""
    max_price: Price | None = None
    """The highest price of an instance, in US dollars an hour"""
    fleets: list[FleetName] | None = None
    """In which fleets instances are sought and made; any where unset"""
    pool_name: str | None = None
    """One fleet in which instances are sought and made; *pool* is an older word for fleet"""
    instances: list[Text | dict[str, Text]] | None = None
    """On which instances it may run, by their names; any where unset"""
    instance_name: str | None = None
    """The one instance to run on, by its name"""
    creation_policy: CreationPolicy = CreationPolicy.REUSE_OR_CREATE
    """Whether instances may be made: `reuse-or-create`, or `reuse` for those only that there are"""
    termination_policy: TerminationPolicy = TerminationPolicy.DESTROY_AFTER_IDLE
    """What becomes of an instance without jobs: `destroy-after-idle` or `dont-destroy`"""
    termination_idle_time: Limit = IDLE_S
    """The old name of `idle_duration`"""
    idle_duration: Limit = IDLE_S
    """How long an instance may stand without jobs before it is ended, in seconds or as `1h`. `5m` where unset"""
    schedule: Schedule | None = None
    """When the run starts by itself, again and again"""
    startup_order: Literal["any", "master-first", "workers-first"] = "any"
    """Which nodes start first: `any`, `master-first` or `workers-first`"""
    stop_criteria: Literal["all-done", "master-done"] = "all-done"
    """When a run of several nodes is done: with all of them (`all-done`), or with node 0 (`master-done`)"""
    utilization_policy: UtilizationPolicy | None = None
    """Ends the run when its GPUs stand idle"""
    tags: Tags = {}
    """Words that are kept with the run, and with what is made for it at a cloud"""

    renamed: ClassVar[Mapping[str, str]] = {"retry_policy": "retry", "termination_idle_time": "idle_duration"}

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from idle_conflicts(written)
        if written.get("pool_name") is not None and written.get("fleets") is not None:
            yield Conflict("pool_name", "expected one of `fleets` and `pool_name`, found both; a pool is a fleet")


class Profile(ProfileFields):
    """Fields that several configurations share, under a name.

    Examples:
        >>> Profile(name="cheap", spot_policy="auto", max_price=1.5).name
        'cheap'
    """

    name: Annotated[Text, Field(min_length=1)]
    """The profile's name, of any characters"""
    default: bool = False
    """Whether it counts where no profile is named"""


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
        """As `Spec.conflicts`."""
        found = written.get("profiles")
        profiles = found if isinstance(found, list) else []
        names = [name for one in profiles if isinstance(name := _read(one, "name"), str)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Conflict("profiles", f"expected each name once, found two profiles `{name}`")
        if sum(_read(one, "default") is True for one in profiles) > 1:
            yield Conflict("profiles", "expected one profile with `default: true`, found more")

    def chosen(self, name: str | None) -> Profile | None:
        """The profile of that name, or the default one for None; None where there is none."""
        return next((one for one in self.profiles if (one.default if name is None else one.name == name)), None)


def _read(one: object, field: str) -> object:
    return one.get(field) if isinstance(one, dict) else getattr(one, field, None)
