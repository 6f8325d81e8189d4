"""This very machine, as a cloud with one machine of one size.

The machine is a folder with an agent in it. It is launched by making the folder, and ends with its agent. The
connection to the agent starts it, and restarts it after a crash (`dstack.hosts`).
"""

import logging
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from dstack.agent.confidential import memory_folder
from dstack.agent.containers.sockets import remove_container
from dstack.agent.paths import Home, JobFolder, is_agent_alive
from dstack.agent.processes import end_marked
from dstack.agent.records import container_name, read_start
from dstack.agent.resources import probe
from dstack.backends.base import Abilities, Address, Backend, LaunchRequest, Machine, MachineState
from dstack.domain.offers import Offer
from dstack.errors import BackendUnavailable
from dstack.kit.folders import make_private
from dstack.protocol.agent import HostResources
from dstack.protocol.runtimes import Runtime

log = logging.getLogger(__name__)

ADDRESS = Address("127.0.0.1")


def offer_of(resources: HostResources) -> Offer:
    """Return the one offer of this backend: a machine that all jobs share."""
    return Offer(
        "local",
        "local",
        "local",
        resources,
        price=0.0,
        blocks=None,
        exists=True,
        for_all=True,
        runtime=Runtime.PROCESS,
        machines_max=1,
    )


class Local(Backend):
    """The machine on which the server runs."""

    abilities = Abilities(
        offers_fresh_for=timedelta(seconds=2),  # a look is cheap, and a container engine may have just been started
        lists_cheaply=True,
        lists_exactly=True,  # folders come and go with the machines themselves
        locate_every=None,
    )

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "machines"

    def check(self) -> None:
        """Do nothing: this machine is always there."""

    def offers(self) -> Sequence[Offer]:
        """Return one machine, with what it really has, for all projects together."""
        make_private(self._folder)
        resources = probe(self._folder)
        return [offer_of(resources)]

    def launch(self, request: LaunchRequest) -> Machine:
        """Make the machine's folder.

        A machine of another key is not on record, or is ending: the launch waits for its end.
        """
        if any(machine.key != request.key for machine in self.look_up()):
            raise BackendUnavailable("this machine is cleaned up first: an earlier agent still runs on it")
        make_private(self._folder / request.key)
        return self._machine(request.key)

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        """Return the folders there are."""
        if not self._folder.is_dir():
            return []
        return [
            self._machine(path.name) for path in self._folder.iterdir() if key in (None, path.name) and path.is_dir()
        ]

    def terminate(self, key: str, keep: str | None = None) -> bool:
        """End the agent and all that it left, and remove the folder; return True once nothing of them is left.

        The engine has asked the agent to leave; an agent that is still there is ended.
        """
        path = self._folder / key
        if keep == str(path):
            return True
        if is_agent_alive(path):
            _end_agent(Home(path))
            return False
        if _end_what_is_left(path):
            return False
        shutil.rmtree(memory_folder(path), ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            # A container wrote files as root, and this user is not root; the machine has ended all the same.
            graveyard = self._folder.with_name("leftovers")
            make_private(graveyard)
            path.rename(graveyard / key)
            log.warning("`%s` holds files of containers that only root may remove", graveyard / key)
        return True

    def _machine(self, key: str) -> Machine:
        return Machine(str(self._folder / key), key, MachineState.RUNNING, ADDRESS)


def _end_what_is_left(home: Path) -> bool:
    """End supervisors and containers that outlived their agent; return whether any may be left."""
    folders = [JobFolder(path) for path in (home / "jobs").glob("*")]
    left = [folder for folder in folders if folder.has_writer()]
    for folder in left:
        if (known := read_start(folder)) is not None:
            _end(known.pid)
        else:  # its supervisor ends with all that it watches over
            end_marked(folder.job_id)
    return _have_containers(folders) or bool(left)


def _have_containers(folders: Sequence[JobFolder]) -> bool:
    """Remove the containers of these jobs; return whether one may be left, such as while the engine is down."""
    contained = [folder for folder in folders if folder.container.exists()]
    removed = [(folder, remove_container(container_name(folder.job_id))) for folder in contained]
    return any(not is_gone and not folder.end.exists() for folder, is_gone in removed)


def _end_agent(home: Home) -> None:
    pid = home.lock.read_bytes().partition(b"\n")[0]
    if pid.isdigit():
        _end(int(pid))
    else:
        log.error("%s does not name the agent's process: end it by hand", home.lock)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


driver = Local
