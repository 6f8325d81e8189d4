"""The failure of a replica whose port was not its own."""

import re

from dstack.agent.paths import JobFolder
from dstack.agent.records import Ending, KnownReplica
from dstack.agent.serving.listening import user_of

OUTPUT_BYTES = 64 << 10
"""So much of the end of a job's output is read for the words of a port that is taken."""
_TAKEN = re.compile(rb"address already in use|EADDRINUSE|connection in use|address in use|port \d+ is in use", re.I)


def taken_port(folder: JobFolder, known: KnownReplica, configured: int, ending: Ending) -> str:
    """Return why the port of a replica that has ended was not its own; empty where that is not the cause. Blocks.

    All processes of the job have ended: a process that listens at its port is another one's. At a port that the job
    was not given others may listen, so that its own words must be about that.
    """
    if ending.end != "exited" or ending.exit_code == 0 or known.is_ready:
        return ""
    try:
        if (user := user_of(known.port)) is not None:
            return f"port {known.port} of the machine is in use by {user}"
        if known.port != configured and (user := user_of(configured)) is not None and _complains(folder):
            return (
                f"port {configured} of the machine is in use by {user}, and this replica was given "
                f"port {known.port}: make the program listen at `$PORT`"
            )
    except OSError:  # this system lists no ports
        return ""
    return ""


def _complains(folder: JobFolder) -> bool:
    """Return whether the end of a job's output is about a port that is in use."""
    try:
        with open(folder.log("job"), "rb") as file:
            file.seek(max(0, file.seek(0, 2) - OUTPUT_BYTES))
            return _TAKEN.search(file.read(OUTPUT_BYTES)) is not None
    except OSError:
        return False
