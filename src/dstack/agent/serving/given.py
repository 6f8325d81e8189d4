"""The record of a replica of a service: its port, its state, and a failure that has to do with its port."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, replace

from dstack.agent import processes
from dstack.agent.environment import PORT
from dstack.agent.paths import JobFolder, write_json
from dstack.agent.records import Ending, KnownReplica, read_replica
from dstack.agent.serving.ports import choose_port, is_free, last_port
from dstack.protocol.agent import JobOrder, Serving

END = "ports_binding_failed"


def give_port(folder: JobFolder, order: JobOrder, serving: Serving, held: Collection[int]) -> KnownReplica:
    """Choose the port of a replica, and put it on record. Blocks for moments.

    Args:
        held: the ports of this host that other jobs have.

    Raises:
        HostTrouble: no port is free.
        OSError: it cannot be put on record.
    """
    port = serving.port
    if order.container is None:
        port = choose_port(order.job_id, port, held, last_port(), is_free)
    known = KnownReplica(port)
    write_json(folder.service, asdict(known))
    return known


def recovered(folder: JobFolder, order: JobOrder, serving: Serving) -> KnownReplica:
    """Return the state of a replica that was started. If its file is lost, its processes know its port. Blocks."""
    if (known := read_replica(folder)) is not None:
        return known
    if order.container is None:
        for pid in processes.marked(folder.job_id):
            with suppress(TypeError, ValueError):
                return KnownReplica(int(processes.variable_of(pid, PORT)))  # type: ignore[arg-type]
    return KnownReplica(serving.port)


def with_failure(folder: JobFolder, ending: Ending) -> Ending:
    """Return the end of a job, with the failure of its port as the reason if that is on record."""
    known = read_replica(folder)
    if known is None or not known.failure or ending.end not in ("exited", "stopped"):
        return ending
    return replace(ending, end=END, message=known.failure)
