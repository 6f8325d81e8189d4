"""The way from a data plane to a replica."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from dstack.agent.paths import channels_path
from dstack.domain.objects import Instance, Job
from dstack.protocol.proxy import Channel, Target, Tcp

LOOPBACK = "127.0.0.1"


def target_of(job: Job, port: int, instances: Mapping[str, Instance]) -> Target:
    """Return where a data plane on the machine of a replica reaches its port.

    A process is reached at its port of the machine. A container is reached at the address that its agent has verified,
    else by a channel. A channel also leads to a server that listens at the container's own loopback alone.

    Args:
        instances: the job's among them. It is on this machine: the id of the machine is the folder of its agent.
    """
    address = None if job.report is None else job.report.address
    if address is not None and _is_address(address):
        return Tcp(address, port)
    instance = instances.get(job.instance_id or "")
    if not job.share.container or instance is None or instance.machine_id is None:
        return Tcp(LOOPBACK, port)
    return Channel(str(channels_path(Path(instance.machine_id))), job.id, port)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:  # an agent may send anything
        return False
    return True
