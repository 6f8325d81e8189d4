"""The network of a container: the host's, where it has the machine to itself; else one of its own behind the host."""

from pathlib import Path

from tests.e2e.agent.container_host import ContainerHost
from tests.engines import DockerEngine

SHOW = "readlink /proc/self/ns/net"


async def test_a_container_shares_the_hosts_network_or_has_its_own(tmp_path: Path, engine: DockerEngine) -> None:
    host = ContainerHost(tmp_path / "home", engine.socket)
    hosts_own = engine.network.run("sh", "-c", SHOW)
    _, shared = await host.run(script=SHOW, host_network=True)
    _, own = await host.run(script=SHOW)
    assert shared == hosts_own
    assert own.startswith("net:") and own != hosts_own
