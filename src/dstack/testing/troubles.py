"""What befalls made-up hosts out of the blue: links that break, agents that restart, machines that are taken away."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from dstack.testing.clouds import Clouds
from dstack.testing.faults import AgentRestarts, LinkCuts, MachineFailures, SpotReclaims
from dstack.testing.hosts import Host
from dstack.testing.nature import Nature


def troubles_of(nature: Nature, clouds: Clouds) -> Iterator[Coroutine[Any, Any, None]]:
    """What goes on in a world for as long as it lasts, as its faults say."""

    def cut(host: Host) -> None:
        host.disconnect()

    def end(host: Host) -> None:
        if (cloud := clouds.find(host.key)) is not None:
            cloud.end(host.key)

    if (cuts := nature.find(LinkCuts)) is not None:
        yield _befall(nature, clouds, cuts.every_s, "link is cut", cut)
    if (failures := nature.find(MachineFailures)) is not None:
        yield _befall(nature, clouds, failures.every_s, "fails", end)
    if (reclaims := nature.find(SpotReclaims)) is not None:
        yield _befall(nature, clouds, reclaims.every_s, "is reclaimed", end, only_spot=True)
    if (restarts := nature.find(AgentRestarts)) is not None:
        down_at_most_s = restarts.down_at_most_s

        def restart(host: Host) -> None:
            host.restart_agent(nature.within(down_at_most_s))

        yield _befall(nature, clouds, restarts.every_s, "agent restarts", restart)


async def _befall(
    nature: Nature, clouds: Clouds, every_s: float, what: str, do: Callable[[Host], None], *, only_spot: bool = False
) -> None:
    while True:
        await asyncio.sleep(nature.chance.expovariate(1 / every_s))
        hosts = [host for host in clouds.hosts() if host.offer.spot or not only_spot]
        if hosts:
            host = nature.chance.choice(hosts)
            nature.observer.told(f"machine {host.key}", what)
            do(host)
