"""The network of a running job, as far as its host reaches and sees it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dstack.agent import processes
from dstack.agent.connecting import LOOPBACKS
from dstack.agent.serving.listening import ports_in, ports_of, table_of

ENGINES_DNS = "127.0.0.11"
"""Docker listens there in containers, at some port of its own."""


@dataclass(frozen=True, slots=True)
class Network:
    """The network of a running job."""

    addresses: tuple[str, ...]
    """At which this host may reach its ports."""
    is_hosts: bool = True
    """Whether it is the network of the host."""
    pid: int | None = None
    """A process in it, where it is a container's own. None where this host does not see the container's processes."""


HOSTS = Network(LOOPBACKS)
"""That of each process job."""


def network_in(body: Mapping[str, Any]) -> Network:
    """Return the network of a running container.

    Args:
        body: the container as its engine describes it.
    """
    if body["HostConfig"].get("NetworkMode") == "host":
        return HOSTS
    pid = int(body["State"]["Pid"])
    is_seen = pid > 0 and processes.is_grouped(pid, str(body["Id"]))
    address = address_in(body)
    return Network((address,) if address else (), is_hosts=False, pid=pid if is_seen else None)


def address_in(body: Mapping[str, Any]) -> str:
    """Return the address of a container in the network of its engine; empty where it has none.

    Examples:
        >>> address_in({"NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}}})
        '172.17.0.2'
    """
    settings = body["NetworkSettings"]
    networks = (settings.get("Networks") or {}).values()
    addresses = [settings.get("IPAddress"), *(network.get("IPAddress") for network in networks)]
    return next((str(address) for address in addresses if address), "")


def listening(network: Network, pids: Iterable[int]) -> frozenset[int]:
    """Return the ports at which a job listens. Blocks for milliseconds.

    Args:
        pids: the processes of the job.

    Raises:
        OSError: this host does not see them.
    """
    if network.is_hosts:
        return ports_of(pids)
    if network.pid is None:
        return frozenset()
    return ports_in(entry for entry in table_of(network.pid) if entry.host != ENGINES_DNS)
