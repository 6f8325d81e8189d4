"""A fleet: machines under one name, of one's own or bought."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dstack.kit.ranges import Range, parse_count
from dstack.kit.text import shown
from dstack.spec.backends import BackendType
from dstack.spec.base import NUMBER, TEXT, Also, Conflict, Spec, Text
from dstack.spec.profile import Limit, Name, Price, RetryOrNot, SpotPolicy, Tags, TerminationPolicy, idle_conflicts
from dstack.spec.resources import Resources
from dstack.spec.run import Env

Port = Annotated[int, Field(ge=1, le=65_535, strict=True)]


def _blocks(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"expected a number of blocks from 1, or `auto`, found {shown(value)}")


Blocks = Annotated[int | Literal["auto"], BeforeValidator(_blocks)]


class ProxyJump(Spec):
    """A host through which others are reached.

    Examples:
        >>> ProxyJump(hostname="jump.example.com", user="me", identity_file="~/.ssh/id_ed25519").port is None
        True
    """

    hostname: str
    """Its name or address"""
    port: Port | None = None
    """The port of its SSH server; 22 where unset"""
    user: Text
    """The user there"""
    identity_file: str
    """The private key to log in with"""


class SSHHost(Spec):
    """One host of one's own.

    Examples:
        >>> SSHHost(hostname="10.0.0.1", user="ubuntu").blocks
        1
    """

    hostname: str
    """Its name or address"""
    port: Port | None = None
    """The port of its SSH server; that of all hosts where unset"""
    user: Text | None = None
    """The user there; that of all hosts where unset"""
    identity_file: str | None = None
    """The private key to log in with; that of all hosts where unset"""
    proxy_jump: ProxyJump | None = None
    """A host through which it is reached; that of all hosts where unset"""
    internal_ip: str | None = None
    """Its address among the hosts"""
    blocks: Blocks = 1
    """Into how many parts it is divided, each for one job; `auto` for as many as it has GPUs"""


def _host(value: object) -> object:
    return {"hostname": value} if isinstance(value, str) else value


class SSHConfig(Spec):
    """Hosts of one's own, and how they are reached.

    Examples:
        >>> SSHConfig(user="ubuntu", identity_file="~/.ssh/id_ed25519", hosts=["10.0.0.1"]).hosts[0].hostname
        '10.0.0.1'
    """

    user: Text | None = None
    """The user on all hosts"""
    port: Port | None = None
    """The port of their SSH servers; 22 where unset"""
    identity_file: str | None = None
    """The private key to log in with"""
    proxy_jump: ProxyJump | None = None
    """A host through which all are reached"""
    hosts: Annotated[list[Annotated[SSHHost, BeforeValidator(_host), Also((TEXT,))]], Field(min_length=1)]
    """The hosts: addresses, or more about each"""
    network: str | None = None
    """The network among the hosts, such as `10.0.0.0/24`"""


class FleetNodes(Spec):
    """How many machines a fleet has.

    Examples:
        >>> FleetNodes(min=0, max=4).target is None
        True
    """

    min: Annotated[int, Field(ge=0, strict=True)] = 0
    """The least number"""
    target: Annotated[int, Field(ge=0, strict=True)] | None = None
    """How many are made at first; the least number where unset"""
    max: Annotated[int, Field(ge=1, strict=True)] | None = None
    """The greatest number; no limit where unset"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        ends = [number if isinstance(number := written.get(end), int) else None for end in ("min", "target", "max")]
        known = [end for end in ends if end is not None]
        if known != sorted(known):
            yield Conflict(None, "expected `min` ≤ `target` ≤ `max`, found another order")


def _nodes(value: object) -> object:
    if isinstance(value, dict | FleetNodes | None):
        return value
    range = Range.parse(value, parse_count)
    return FleetNodes.model_validate({"min": range.min or 0, **({"max": range.max} if range.max is not None else {})})


class Fleet(Spec):
    """Machines under one name: hosts of one's own, or instances of clouds.

    Raises:
        pydantic.ValidationError: fields do not fit; names each, with what was expected.

    Examples:
        >>> Fleet(name="team", nodes="0..4", resources={"gpu": "A100"}).nodes.max
        4
    """

    type: Literal["fleet"] = "fleet"
    """What kind of configuration it is"""
    name: Name | None = None
    """The fleet's name; a random one where unset"""
    env: Env = {}
    """Environment variables for what sets the hosts up"""
    ssh_config: SSHConfig | None = None
    """Hosts of one's own. Not beside `nodes`"""
    nodes: Annotated[FleetNodes | None, BeforeValidator(_nodes), Also((TEXT, NUMBER))] = None
    """How many instances: a number, a range such as `0..4`, or `min`, `target`, `max`"""
    placement: Literal["any", "cluster"] = "any"
    """Whether the machines must be near each other with a fast network (`cluster`)"""
    blocks: Blocks = 1
    """Into how many parts each machine is divided, each for one job; `auto` for as many as it has GPUs"""
    resources: Resources = Field(default_factory=Resources.model_construct)
    """What each instance must have"""
    backends: list[BackendType] | None = None
    """Which backends may be used; any where unset"""
    regions: list[str] | None = None
    """Which regions may be used; any where unset"""
    availability_zones: list[str] | None = None
    """Which availability zones may be used; any where unset"""
    instance_types: list[str] | None = None
    """Which instance types may be used, by the backends' own names; any where unset"""
    spot_policy: SpotPolicy = SpotPolicy.ONDEMAND
    """Whether spot instances are used: `spot`, `on-demand` or `auto` for both"""
    retry: RetryOrNot = None
    """Whether and when instances that could not be made are tried again. Never where unset"""
    max_price: Price | None = None
    """The highest price of an instance, in US dollars an hour"""
    reservation: str | None = None
    """A reservation at the cloud, from which instances are taken"""
    idle_duration: Limit = 3 * 86_400
    """How long an instance may stand without jobs before it is ended, in seconds or as `1h`. `3d` where unset"""
    termination_policy: TerminationPolicy = TerminationPolicy.DESTROY_AFTER_IDLE
    """What becomes of an instance without jobs: `destroy-after-idle` or `dont-destroy`"""
    termination_idle_time: Limit = 3 * 86_400
    """The old name of `idle_duration`"""
    tags: Tags = {}
    """Words that are kept with what is made for it at a cloud"""

    renamed = {"termination_idle_time": "idle_duration"}

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from idle_conflicts(written)
        own, bought = written.get("ssh_config") is not None, written.get("nodes") is not None
        if own and bought:
            yield Conflict("nodes", "expected `ssh_config` or `nodes`, found both; hosts of one's own are not made")
        if not own and not bought:
            yield Conflict(None, "expected `ssh_config` or `nodes`, found neither: the fleet would have no machine")
