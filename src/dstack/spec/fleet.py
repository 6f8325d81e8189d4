"""A fleet: machines under one name. They are the user's own hosts, or instances of clouds."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dstack.kit.ranges import Range, parse_count
from dstack.kit.text import shown
from dstack.spec.base import NUMBER, TEXT, Also, Conflict, Spec, Text
from dstack.spec.profile import (
    BackendWord,
    Limit,
    Name,
    Price,
    RetryOrNot,
    SpotPolicy,
    Tags,
    TerminationPolicy,
    idle_conflicts,
)
from dstack.spec.resources import Resources
from dstack.spec.run import Env

Port = Annotated[int, Field(ge=1, le=65_535, strict=True)]


def _blocks(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"expected a number of blocks from 1, or `auto`, found {shown(value)}")


Blocks = Annotated[int | Literal["auto"], BeforeValidator(_blocks)]


class ProxyJump(Spec):
    """A jump host, through which other hosts are reached.

    Examples:
        >>> ProxyJump(hostname="jump.example.com", user="me", identity_file="~/.ssh/id_ed25519").port is None
        True
    """

    hostname: str
    """The host's name or address"""
    port: Port | None = None
    """The port of the host's SSH server. 22 by default"""
    user: Text
    """The user on the host"""
    identity_file: str
    """The file of the private SSH key"""


class SSHHost(Spec):
    """One of the user's own hosts.

    Examples:
        >>> SSHHost(hostname="10.0.0.1", user="ubuntu").blocks
        1
    """

    hostname: str
    """The host's name or address"""
    port: Port | None = None
    """The port of the host's SSH server. The port of all hosts by default"""
    user: Text | None = None
    """The user on the host. The user of all hosts by default"""
    identity_file: str | None = None
    """The file of the private SSH key. The key of all hosts by default"""
    proxy_jump: ProxyJump | None = None
    """The jump host. The jump host of all hosts by default"""
    internal_ip: str | None = None
    """The host's address in the network among the hosts"""
    blocks: Blocks = 1
    """The number of parts of the host, each for one job; `auto` for one part a GPU"""


def _host(value: object) -> object:
    return {"hostname": value} if isinstance(value, str) else value


class SSHConfig(Spec):
    """The user's own hosts, and the SSH access to them.

    Examples:
        >>> SSHConfig(user="ubuntu", identity_file="~/.ssh/id_ed25519", hosts=["10.0.0.1"]).hosts[0].hostname
        '10.0.0.1'
    """

    user: Text | None = None
    """The user on all hosts"""
    port: Port | None = None
    """The port of the SSH servers. 22 by default"""
    identity_file: str | None = None
    """The file of the private SSH key"""
    proxy_jump: ProxyJump | None = None
    """The jump host of all hosts"""
    hosts: Annotated[list[Annotated[SSHHost, BeforeValidator(_host), Also((TEXT,))]], Field(min_length=1)]
    """The hosts: names or addresses, or a mapping for each"""
    network: str | None = None
    """The network among the hosts, such as `10.0.0.0/24`"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        hosts = written.get("hosts")
        seen: list[object] = []
        for index, host in enumerate(hosts if isinstance(hosts, list) else ()):
            place = (host.get("hostname"), host.get("port")) if isinstance(host, Mapping) else (host, None)
            if place in seen:
                yield Conflict("hosts", f"expected each host once, found {shown(place[0])} again", index)
            seen.append(place)


class FleetNodes(Spec):
    """The number of machines of a fleet.

    Examples:
        >>> FleetNodes(min=0, max=4).target is None
        True
    """

    min: Annotated[int, Field(ge=0, strict=True)] = 0
    """The least number"""
    target: Annotated[int, Field(ge=0, strict=True)] | None = None
    """The number of instances to create at first. `min` by default"""
    max: Annotated[int, Field(ge=1, strict=True)] | None = None
    """The greatest number. No limit by default"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflict of numbers in a wrong order, as `Spec.conflicts`."""
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
    """Machines under one name: the user's own hosts, or instances of clouds.

    Raises:
        pydantic.ValidationError: fields are invalid. Lists each, with the expected form.

    Examples:
        >>> Fleet(name="team", nodes="0..4", resources={"gpu": "A100"}).nodes.max
        4
    """

    type: Literal["fleet"] = "fleet"
    """The type of the configuration: `fleet`"""
    name: Name | None = None
    """The fleet's name. A random name by default"""
    env: Env = {}
    """Environment variables for the setup of the hosts"""
    ssh_config: SSHConfig | None = None
    """The user's own hosts. Not with `nodes`"""
    nodes: Annotated[FleetNodes | None, BeforeValidator(_nodes), Also((TEXT, NUMBER))] = None
    """The number of instances: a number, a range such as `0..4`, or a mapping of `min`, `target` and `max`"""
    placement: Literal["any", "cluster"] = "any"
    """The placement of the machines: `any`, or `cluster` for machines near each other with a fast network"""
    blocks: Blocks = 1
    """The number of parts of each machine, each for one job; `auto` for one part a GPU"""
    resources: Resources = Field(default_factory=Resources.model_construct)
    """The required CPUs, memory, disk and GPUs of each instance"""
    backends: list[BackendWord] | None = None
    """The backends that may be used, by type or by name. Any by default"""
    regions: list[str] | None = None
    """The regions that may be used. Any by default"""
    availability_zones: list[str] | None = None
    """The availability zones that may be used. Any by default"""
    instance_types: list[str] | None = None
    """The instance types that may be used, by the backends' own names. Any by default"""
    spot_policy: SpotPolicy = SpotPolicy.ONDEMAND
    """The use of spot instances: `spot`, `on-demand` or `auto` for both"""
    retry: RetryOrNot = None
    """Whether and when to retry instances that could not be created. No retry by default"""
    max_price: Price | None = None
    """The highest price of an instance, in US dollars an hour"""
    reservation: Text | None = None
    """The reservation at the cloud from which to take instances"""
    idle_duration: Limit = 3 * 86_400
    """The time without jobs after which an instance is terminated, in seconds or as `1h`. `3d` by default"""
    termination_policy: TerminationPolicy = TerminationPolicy.DESTROY_AFTER_IDLE
    """The handling of an instance without jobs: `destroy-after-idle` or `dont-destroy`"""
    termination_idle_time: Limit = 3 * 86_400
    """The old name of `idle_duration`"""
    tags: Tags = {}
    """Tags of all that is created for the fleet at a cloud: up to 50 names with values"""

    renamed = {"termination_idle_time": "idle_duration"}

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from idle_conflicts(written)
        own, bought = written.get("ssh_config") is not None, written.get("nodes") is not None
        if own and bought:
            yield Conflict("nodes", "expected `ssh_config` or `nodes`, found both; hosts of one's own are not made")
        if not own and not bought:
            yield Conflict(None, "expected `ssh_config` or `nodes`, found neither: the fleet would have no machine")
