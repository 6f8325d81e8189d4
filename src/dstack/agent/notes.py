"""A job's `agent` log: one line, with its time, for each thing that the agent or the supervisor does for the job."""

import os

from dstack.agent.paths import JobFolder
from dstack.kit.clock import Clock


def note(folder: JobFolder, clock: Clock, text: str) -> None:
    """Append a line. The folder must exist.

    Args:
        text: what was done, without secrets; the user reads it.
    """
    line = f"{clock.now().isoformat(timespec='milliseconds')} {' '.join(text.splitlines())}\n"
    descriptor = os.open(folder.log("agent"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line.encode(errors="backslashreplace"))
    finally:
        os.close(descriptor)
