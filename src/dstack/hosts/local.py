"""Reaching the agent on this very machine: through its unix socket, starting it where it does not run."""

import asyncio
import os
import select
import subprocess
import sys
import threading
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import BinaryIO

from dstack.agent.inherited import inherited
from dstack.agent.paths import is_agent_alive, socket_path
from dstack.domain.objects import Instance
from dstack.errors import HostTrouble
from dstack.hosts.inbox import Connector
from dstack.protocol.frames import LINE_BYTES_MAX

START_TIMEOUT_S = 20.0
LOG_END_BYTES = 16 << 10
SAID_MAX = 300
"""How many characters of its log are shown."""


def connector_for(instance: Instance) -> Connector:
    """Return the way to an instance's agent."""
    assert instance.machine_id is not None
    return LocalConnector(Path(instance.machine_id))


class LocalConnector:
    """Connects to the agent whose home is a folder of this machine."""

    def __init__(self, home: Path) -> None:
        self._home = home

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open a fresh connection. An agent that has died is started again: its jobs have not died with it.

        Raises:
            HostTrouble: the agent cannot be started; says why.
        """
        if not is_agent_alive(self._home):
            await asyncio.to_thread(start_agent, self._home)
        return await asyncio.open_unix_connection(socket_path(self._home), limit=LINE_BYTES_MAX)


def start_agent(home: Path) -> None:
    """Start an agent that outlives this process, and wait until it listens. Blocks.

    Raises:
        HostTrouble: it did not start; says why, in the last words of its log.
        OSError: its folder is not there.
    """
    ready, given = os.pipe()
    try:
        with open(home / "agent.log", "ab") as output:
            begin = output.tell()
            agent = _launched(home, output, given)
        threading.Thread(target=agent.wait, name="reaper of the agent", daemon=True).start()
        os.close(given)
        given = -1
        readable, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
        # Another server may have started one a moment before.
        if not (readable and os.read(ready, 16).startswith(b"ready")) and not is_agent_alive(home):
            silent = "it ended without a message" if readable else f"it was silent for {START_TIMEOUT_S:g} s"
            raise HostTrouble(f"its agent does not start: {_last_words(home / 'agent.log', begin) or silent}")
    finally:
        os.close(ready)
        if given >= 0:
            os.close(given)


def _launched(home: Path, output: BinaryIO, given: int) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "dstack.agent", "--home", str(home), "--ready-fd", str(given)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(given,),
            start_new_session=True,
            cwd="/",
            # Where somebody starts it in a job, it is no part of that.
            env=inherited(os.environ),
        )
    except OSError as error:
        raise HostTrouble(f"its agent cannot be started: {error.strerror}: `{error.filename}`") from error


def _last_words(log: Path, begin: int) -> str:
    """Return the last line that an agent has written since its start, and where more is; "" where there is none."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - LOG_END_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return said and f"{said[:SAID_MAX]} (`{log}`)"
