"""What befalls made-up hosts out of the blue: links that break, agents that restart, machines that are taken away."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

from dstack.testing.clouds import Clouds
from dstack.testing.faults import AgentRestarts, HostileAgents, LinkCuts, MachineFailures, ReplicaDeaths, SpotReclaims
from dstack.testing.hosts import Host
from dstack.testing.nature import Nature

HALF = 0.5

Act: TypeAlias = Callable[[Nature, Clouds, Host], None]


def _cut(nature: Nature, clouds: Clouds, host: Host) -> None:
    host.disconnect()


def _end(nature: Nature, clouds: Clouds, host: Host) -> None:
    if (cloud := clouds.find(host.key)) is not None:
        cloud.end(host.key)


def _restart(nature: Nature, clouds: Clouds, host: Host) -> None:
    if (restarts := nature.find(AgentRestarts)) is not None:
        host.restart_agent(nature.within(restarts.down_at_most_s))


def _harm_replica(nature: Nature, clouds: Clouds, host: Host) -> None:
    """Let a replica die, or not answer for a while."""
    serving = [job for job in host.running if job.report.ready]
    fault = nature.find(ReplicaDeaths)
    if not serving or fault is None:
        return
    job = nature.chance.choice(serving)
    if nature.chance.random() < HALF:
        host.end_job(job, 1)
        return
    host.set_ready(job, False)
    asyncio.get_running_loop().call_later(nature.within(fault.away_at_most_s), host.set_ready, job, True)


def _lie(nature: Nature, clouds: Clouds, host: Host) -> None:
    host.lie([job_id for other in clouds.hosts() if other is not host for job_id in other.jobs])


Trouble: TypeAlias = LinkCuts | MachineFailures | SpotReclaims | AgentRestarts | HostileAgents | ReplicaDeaths

_TROUBLES: dict[type[Trouble], tuple[str, Act]] = {
    LinkCuts: ("link is cut", _cut),
    MachineFailures: ("fails", _end),
    SpotReclaims: ("is reclaimed", _end),
    AgentRestarts: ("agent restarts", _restart),
    HostileAgents: ("lies", _lie),
    ReplicaDeaths: ("loses a replica, if it has one", _harm_replica),
}


def troubles_of(nature: Nature, clouds: Clouds) -> Iterator[Coroutine[Any, Any, None]]:
    """What goes on in a world for as long as it lasts, as its faults say."""
    for kind, (what, act) in _TROUBLES.items():
        fault = nature.find(kind)
        if fault is not None:
            yield _befall(nature, clouds, fault, what, act)


async def _befall(
    nature: Nature,
    clouds: Clouds,
    fault: Trouble,
    what: str,
    act: Act,
) -> None:
    only_spot = isinstance(fault, SpotReclaims)
    while True:
        await asyncio.sleep(nature.chance.expovariate(1 / fault.every_s))
        hosts = [host for host in clouds.hosts() if host.offer.spot or not only_spot]
        if hosts:
            host = nature.chance.choice(hosts)
            nature.observer.told(f"machine {host.key}", what)
            act(nature, clouds, host)
