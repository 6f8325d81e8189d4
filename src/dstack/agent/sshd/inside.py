"""The inside of a job, as those find it who come in: where programs start, and where files and ports are."""

import asyncio
import os
import secrets
import shlex
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dstack.agent.confidential import environment_of
from dstack.agent.connecting import addresses_of, connect_to
from dstack.agent.containers.api import ContainerEngine
from dstack.agent.environment import find_shell, job_environment, resolve_working_dir
from dstack.agent.paths import JobFolder
from dstack.agent.records import read_container, read_order
from dstack.agent.serving.networks import address_in
from dstack.agent.sshd.container_programs import start_in_container
from dstack.agent.sshd.envoys import CONNECT, CONNECT_UNIX, FILES, LISTEN, LISTEN_UNIX, Envoys, Place
from dstack.agent.sshd.programs import Program, Terminal, start_on_host
from dstack.protocol.agent import JobOrder

_COMMAND = 'command -v bash >/dev/null 2>&1 && exec bash -c "$1"; exec sh -c "$1"'
_SHELL = "command -v bash >/dev/null 2>&1 && exec bash; exec sh"
"""No login shell: `/etc/profile` would set another `PATH` than the image's."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session is to start."""

    command: str | None
    """For a shell; None for a shell to type into."""
    env: Mapping[str, str]
    terminal: Terminal | None


class Inside(ABC):
    """A job that runs."""

    def __init__(self, envoys: Envoys) -> None:
        self._envoys = envoys

    @abstractmethod
    async def start(self, wish: Wish) -> Program:
        """Start a program where the job runs, as who the job is.

        Raises:
            OSError, EngineRefused, EngineAway: it cannot be started.
        """

    @abstractmethod
    async def place(self) -> Place:
        """Where envoys go."""

    async def files(self) -> socket.socket:
        """A server of SFTP among the job's files.

        Raises:
            OSError: there is no way to them.
        """
        return await self._envoys.do(FILES, await self.place())

    @abstractmethod
    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection to a port of the job's own loopback. It does not block.

        Raises:
            OSError: the port cannot be reached.
        """

    async def connect_unix(self, path: str) -> socket.socket:
        """A connection to a unix socket among the job's files."""
        return await self._envoys.do(CONNECT_UNIX, await self.place(), path=path)

    async def listen(self, port: int) -> socket.socket:
        """A listening port on the job's own loopback; any free one for 0."""
        return await self._envoys.do(LISTEN, await self.place(), port=port)

    async def listen_unix(self, path: str) -> socket.socket:
        """A unix socket in a new folder that only who the job is may look into."""
        return await self._envoys.do(LISTEN_UNIX, await self.place(), path=path)

    @abstractmethod
    def remove_unix(self, path: Path) -> None:
        """Remove a unix socket that was listened at, and its folder."""


def inside_of(folder: JobFolder, engine: ContainerEngine, envoys: Envoys) -> Inside:
    """The inside of a job whose order is accepted."""
    order = read_order(folder)
    if order is None:
        raise OSError(0, "the job's order is lost")
    if order.container is None:
        return _OfHost(folder, order, envoys)
    return _OfContainer(folder, engine, envoys)


class _OfHost(Inside):
    """A plain process: one more of them, with the job's environment."""

    def __init__(self, folder: JobFolder, order: JobOrder, envoys: Envoys) -> None:
        super().__init__(envoys)
        self._folder = folder
        self._order = order

    async def start(self, wish: Wish) -> Program:
        working_dir = await asyncio.to_thread(resolve_working_dir, self._folder.files, self._order.working_dir)
        own = await asyncio.to_thread(environment_of, self._folder, self._order)
        order = replace(self._order, env=own)
        env = await asyncio.to_thread(job_environment, order, self._folder, os.environ, working_dir)
        env |= wish.env
        shell = find_shell(self._order, env["PATH"])
        argv = self._shell_to_type_into(shell, env["PATH"]) if wish.command is None else [shell, "-c", wish.command]
        env.setdefault("PROMPT_DIRTRIM", "1")  # the way to the job's folder is longer than a screen is wide
        return await start_on_host(argv, env, str(working_dir), wish.terminal)

    def _shell_to_type_into(self, shell: str, path: str) -> list[str]:
        """Not a login shell: `/etc/profile` sets another `PATH`. What `.bashrc` changes of it is set back."""
        if os.path.basename(shell) != "bash":
            return [shell]
        draft = self._folder.bashrc.with_name(f".bashrc.{secrets.token_hex(4)}")
        try:
            draft.write_text(f"[ ! -r ~/.bashrc ] || . ~/.bashrc\nPATH={shlex.quote(path)}\n")
            draft.rename(self._folder.bashrc)
        except OSError:  # a full disk, for example, which somebody wants to look at
            draft.unlink(missing_ok=True)
            return [shell]
        return [shell, "--rcfile", str(self._folder.bashrc)]

    async def connect(self, host: str, port: int) -> socket.socket:
        return (await connect_to(addresses_of(host), port))[0]

    def remove_unix(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.parent.rmdir()

    async def place(self) -> Place:
        return Place(folder=str(resolve_working_dir(self._folder.files, self._order.working_dir)))


class _OfContainer(Inside):
    def __init__(self, folder: JobFolder, engine: ContainerEngine, envoys: Envoys) -> None:
        super().__init__(envoys)
        self._folder = folder
        self._engine = engine
        self._has_shell: bool | None = None
        self._place: Place | None = None

    async def start(self, wish: Wish) -> Program:
        place = await self.place()
        argv = await self._argv(str(place.container_id), wish.command)
        return await start_in_container(self._engine, str(place.container_id), argv, wish.env, wish.terminal)

    async def _argv(self, container_id: str, command: str | None) -> list[str]:
        if self._has_shell is None:
            path = f"/containers/{container_id}/archive"
            async with self._engine.exchange("HEAD", path, query={"path": "/bin/sh"}) as answer:
                self._has_shell = answer.status == 200
        if self._has_shell:
            return ["/bin/sh", "-c", _SHELL] if command is None else ["/bin/sh", "-c", _COMMAND, "sh", command]
        if command is None:
            raise OSError(0, "the image has no shell; name a program to run")
        return shlex.split(command)

    async def place(self) -> Place:
        if self._place is None:
            known = read_container(self._folder)
            if known is None:
                raise OSError(0, "the job has not started yet, or its user is no longer known")
            body = await self._engine.call("GET", f"/containers/{known.id}/json")
            folder, pid = str(body["Config"].get("WorkingDir") or "/"), int(body["State"]["Pid"])
            if pid == 0:
                raise OSError(0, "the job's container does not run")
            self._place = Place(known.id, pid, known.uid, known.gid, folder)
        return self._place

    def remove_unix(self, path: Path) -> None:
        pass  # it goes with the container

    async def connect(self, host: str, port: int) -> socket.socket:
        try:
            return await self._envoys.do(CONNECT, await self.place(), host=host, port=port)
        except PermissionError:
            # An agent that is not root cannot enter; what listens at all addresses is reached from outside.
            place = await self.place()
            body = await self._engine.call("GET", f"/containers/{place.container_id}/json")
            if not (address := address_in(body)):
                raise
            return (await connect_to((address,), port))[0]
