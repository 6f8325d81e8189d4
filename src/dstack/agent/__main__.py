"""`python -m dstack.agent --home DIR [--ready-fd N]`: the agent of a folder, in the foreground.

Writes `ready` to the descriptor N once its socket listens. Ends with code 3 where an agent lives in the folder already.
"""

import argparse
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

from dstack.agent.environment import JOB_UMASK
from dstack.agent.paths import Home, make_private_folder, take_lock
from dstack.agent.spawner import fork_spawner
from dstack.errors import ConfigurationError, DstackError

ALREADY_ALIVE = 3
FAILED = 1


def main() -> int:
    """Run the agent. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dstack.agent", description="Runs jobs on this host.")
    parser.add_argument("--home", type=Path, required=True, help="the agent's folder, which holds all of its state")
    parser.add_argument("--ready-fd", type=int, help="a descriptor to write `ready` to once the socket listens")
    arguments = parser.parse_args()
    home = Home(arguments.home.absolute())
    os.umask(JOB_UMASK)
    _find_home()
    # What our starter was told to ignore (`nohup`, `&`) would go unheard in what is started over SSH, too.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    try:
        for folder in (home.root, home.jobs, home.forgotten, home.trash, home.blobs):
            make_private_folder(folder)
        lock = take_lock(home.lock)
    except (DstackError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    if lock is None:
        sys.stderr.write(f"error: another agent lives in `{home.root}`\n")
        return ALREADY_ALIVE
    os.ftruncate(lock, 0)
    os.write(lock, b"%d\n" % os.getpid())
    # First the spawner: it must be small, know nothing of loops and threads, and give jobs the limits of this host.
    spawned = fork_spawner()
    descriptors_max = _allow_descriptors()
    from dstack.agent.main import run

    try:
        run(home, spawned, descriptors_max, arguments.ready_fd)
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    return 0


def _find_home() -> None:
    """Have a home folder, as jobs and libraries expect: `/` for a user whom the system's list does not have."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def _allow_descriptors() -> int:
    """Let this process have as many files and sockets open as the system lets it: each job takes several.

    Returns: how many it could have before. A program that knows `select` alone breaks where more are usual.
    """
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems name more than they allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return before


if __name__ == "__main__":
    sys.exit(main())
