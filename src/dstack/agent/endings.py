"""How a job ends that could not be started: whether that is the host's fault or the job's own."""

import logging
import os
from contextlib import suppress

from dstack.agent.files import make_empty
from dstack.agent.full_disk import in_words, is_full, is_of_host
from dstack.agent.paths import JobFolder
from dstack.agent.records import Ending
from dstack.errors import DstackError, HostTrouble
from dstack.protocol.agent import JobOrder

log = logging.getLogger(__name__)

HOST_FAILED, START_FAILED = "host_failed", "start_failed"

FREE_BYTES_MIN = 256 << 10
"""With less of the disk free, no job of any size starts there."""


def ending_of(folder: JobFolder, error: Exception, now: float) -> Ending:
    """The end of a job whose start failed. Blocks: files that did not fit on the disk are removed.

    Args:
        now: seconds since the epoch.
    """
    match error:
        case DstackError():
            # On one line: it goes into tables.
            message = ". ".join(filter(None, [error.message, error.hint]))
            return Ending(HOST_FAILED if isinstance(error, HostTrouble) else START_FAILED, now, message=message)
        case OSError() | TimeoutError():
            return Ending(HOST_FAILED if _is_of_host(folder, error) else START_FAILED, now, message=in_words(error))
        case _:
            log.error("Job %s", folder.job_id, exc_info=error)
            return Ending(START_FAILED, now, message="The agent failed with an internal error")


def trouble_of(error: Exception) -> HostTrouble | None:
    """The host's trouble that kept the agent from doing something small; None where it is none."""
    if is_of_host(error) or is_full(error):
        return HostTrouble(in_words(error))
    return None


def _is_of_host(folder: JobFolder, error: OSError | TimeoutError) -> bool:
    if not is_full(error):
        return is_of_host(error)
    # The files of a job may be too large for an empty disk: what is left without them tells.
    with suppress(OSError):
        make_empty(folder.files)
    disk = os.statvfs(folder.root)
    return disk.f_bavail * disk.f_frsize < FREE_BYTES_MIN


def why_lost(folder: JobFolder, order: JobOrder, *, was_started: bool, has_rebooted: bool) -> str:
    """Why a job that has no readable end cannot go on; empty where it can.

    Of a container it is written down for good that it was started, of a process only until the power is cut.
    """
    if not order.run_name:
        return "The job's order is lost: its `order.json` on the machine is damaged"
    if was_started:
        return ""
    if folder.end.exists():
        return "How the job ended is lost: its `exit.json` on the machine is damaged"
    if has_rebooted and order.container is None:
        return "The machine restarted, and whether the job had started before is not known"
    return ""
