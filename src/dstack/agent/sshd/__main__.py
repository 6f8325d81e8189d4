"""Loads the SSH library without getting in anybody's way, then serves."""

import argparse
import os
import resource
import threading
from pathlib import Path

from dstack.agent.paths import Home
from dstack.agent.sshd.envoys import fork_envoys

GENTLE = 10
"""A niceness. It is given to a thread that only imports, because no thread can take its own back."""


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m dstack.agent.sshd", description="The way into an agent's jobs.")
    parser.add_argument("--home", type=Path, required=True, help="the agent's folder")
    parser.add_argument("--descriptors-max", type=int, required=True, help="how many files each process may have open")
    arguments = parser.parse_args()
    home = Home(arguments.home.absolute())
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (arguments.descriptors_max, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    envoys = fork_envoys()
    loader = threading.Thread(target=_load_gently, name="loads asyncssh")
    loader.start()
    loader.join()
    from dstack.agent.sshd.server import run

    run(home, envoys)


def _load_gently() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), GENTLE)
    import dstack.agent.sshd.server  # noqa: F401


if __name__ == "__main__":
    main()
