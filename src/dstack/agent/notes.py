"""A job's `agent` log: one line, with its time, for each thing that the agent or the supervisor does for the job."""

import logging
import os

from dstack.agent import full_disk
from dstack.agent.paths import JobFolder
from dstack.kit.clock import Clock

log = logging.getLogger(__name__)


def note(folder: JobFolder, clock: Clock, text: str) -> None:
    """Append a line. On a full disk, and wherever else it cannot be written, there is none: whatever is done goes on.

    Args:
        text: what was done, without secrets; the user reads it.
    """
    line = f"{clock.now().isoformat(timespec='milliseconds')} {' '.join(text.splitlines())}\n"
    try:
        descriptor = os.open(folder.log("agent"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(line.encode(errors="backslashreplace"))
    except OSError as error:
        if not full_disk.is_full(error):
            log.warning("The log of job %s lacks the line `%s`: %s", folder.job_id, text, error)
