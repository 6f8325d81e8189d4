"""Reaching the agent on this very machine: through its unix socket, starting it where it does not run."""

import asyncio
import os
import select
import subprocess
import sys
import threading
from asyncio import StreamReader, StreamWriter
from pathlib import Path

from dstack.agent.inherited import inherited
from dstack.agent.paths import is_agent_alive, socket_path
from dstack.errors import HostUnreachable
from dstack.protocol.frames import LINE_BYTES_MAX

START_TIMEOUT_S = 20.0


class LocalConnector:
    """Connects to the agent whose home is a folder of this machine."""

    def __init__(self, home: Path) -> None:
        self._home = home

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """A fresh connection. An agent that has died is started again: its jobs have not died with it."""
        if not is_agent_alive(self._home):
            await asyncio.to_thread(start_agent, self._home)
        return await asyncio.open_unix_connection(socket_path(self._home), limit=LINE_BYTES_MAX)


def start_agent(home: Path) -> None:
    """Start an agent that outlives this process, and wait until it listens. Blocks.

    Raises:
        HostUnreachable: it did not start; its log says why.
    """
    ready, given = os.pipe()
    try:
        with open(home / "agent.log", "ab") as output:
            agent = subprocess.Popen(
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
        threading.Thread(target=agent.wait, name="reaper of the agent", daemon=True).start()
        os.close(given)
        given = -1
        readable, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
        if not readable or not os.read(ready, 16).startswith(b"ready"):
            raise HostUnreachable(f"The agent did not start; `{home / 'agent.log'}` says why")
    finally:
        os.close(ready)
        if given >= 0:
            os.close(given)
