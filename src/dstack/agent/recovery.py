"""What an agent finds of a job that an earlier agent had. Each file may be lost or damaged: power may have been cut."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dstack.agent.paths import Home, JobFolder, read_json, write_json
from dstack.agent.records import read_order
from dstack.kit.plain import from_plain
from dstack.protocol.agent import Container, JobOrder

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Boot:
    id: str


def has_rebooted(home: Home, boot_id: Path = BOOT_ID) -> bool:
    """Whether the machine has started anew since an agent lived here last. From now on, this is the latest start.

    Raises:
        OSError: the disk is full, and the like.
    """
    try:
        now = _Boot(boot_id.read_text().strip())
    except OSError:
        return False  # this system has no such file
    known = read_json(home.boot, partial(from_plain, _Boot))
    is_first = known is None and not home.boot.exists()
    if known != now:
        write_json(home.boot, {"id": now.id}, durable=True)
    return known != now and not is_first


def find_order(folder: JobFolder) -> JobOrder | None:
    """The order of a job; None where none was accepted.

    Where it is lost, one that says no more than how the job runs, so that it can be ended.
    """
    order = read_order(folder)
    has_begun = folder.pid.exists() or folder.container.exists() or folder.end.exists()
    if order is None and (has_begun or folder.order.exists()):
        container = Container("") if folder.container.exists() else None
        return JobOrder(folder.job_id, run_name="", script="", container=container)
    return order


def why_lost(folder: JobFolder, order: JobOrder, *, was_started: bool, has_rebooted: bool) -> str:
    """Why a job that has no readable end cannot go on; empty where it can.

    Of a container it is written down for good that it was started, of a process only until the power is cut.
    """
    if not order.run_name:
        return "What the job was to do is lost: its `order.json` on the machine is damaged"
    if was_started:
        return ""
    if folder.end.exists():
        return "How the job ended is lost: its `exit.json` on the machine is damaged"
    if has_rebooted and order.container is None:
        return "The machine was restarted, and nobody knows whether the job had been started before"
    return ""
