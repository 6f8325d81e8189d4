"""`python -m tests.e2e.agent.record`: prints a conversation between the real server's link and a real agent.

Its output is what a test keeps of an agent before the protocol changes: `tests/unit/hosts/agent-<version>.txt`.
One line for each frame: the sender, the frame, and its payload as a JSON text.
"""

import asyncio
import io
import json
import socket
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from pathlib import Path
from typing import Any

from dstack.agent.paths import socket_path
from dstack.errors import AgentRefused
from dstack.hosts.link import Link
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import JobOrder
from dstack.protocol.frames import LINE_BYTES_MAX, read_frame
from tests.e2e.agent.agent_client import Agent
from tests.making import at_once
from tests.patience import PATIENCE_S
from tests.unit.hosts.test_link import Heard

MISSING = "0" * 64
"""The hash of no blob."""


class Tapped:
    """Connects to an agent, and keeps what crosses."""

    def __init__(self, agent: Agent) -> None:
        self.lines: list[str] = []
        self._agent = agent
        self._pumps: set[asyncio.Task[None]] = set()

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open a connection through the tap."""
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(socket_path(self._agent.home), limit=LINE_BYTES_MAX)
        server_reader, server_writer = await asyncio.open_unix_connection(sock=there, limit=LINE_BYTES_MAX)
        for sender, source, target in (("server", server_reader, writer), ("agent", reader, server_writer)):
            self._pumps.add(asyncio.create_task(self._pump(sender, source, target)))
        return await asyncio.open_unix_connection(sock=here, limit=LINE_BYTES_MAX)

    async def _pump(self, sender: str, source: StreamReader, target: StreamWriter) -> None:
        while (received := await read_frame(source)) is not None:
            frame, payload = received
            text = f" {json.dumps(payload.decode('latin-1'))}" if payload else ""
            self.lines.append(f"{sender} {json.dumps(frame)}{text}")
            target.write(json.dumps(frame).encode() + b"\n" + payload)
        target.close()

    async def until(self, text: str, count: int = 1) -> None:
        """Wait until so many lines have a text."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(text in line for line in self.lines) < count:  # noqa: ASYNC110 - both ends are real
                await asyncio.sleep(0.05)


async def converse(tapped: Tapped) -> None:
    """Have jobs succeed, fail, run and be stopped, through two connections."""
    inbox = Heard()
    link = Link("0-instance", tapped, inbox, SystemClock(), epoch=1, pauses=at_once())
    running = asyncio.create_task(link.run())

    async def start(job_id: str, script: str, **order: Any) -> None:
        await link.start(JobOrder(job_id, "hello", script, **order))

    await start("1-runs", "echo ready; exec sleep 1000")
    await start("1-ends", "echo hello; exit 3", env={"NAME": "value"})
    await start("1-fails", "true", files_root=MISSING)
    await tapped.until('"logged": true', 2)
    await link.call("ping", {})
    with suppress(AgentRefused):
        await link.call("authorize", {"job_id": "1-runs", "key": "no key"})
    await tapped.until('"t": "metrics"')
    inbox.wanted = {("1-runs", "job"): len("ready\n"), ("1-runs", "agent"): 0}
    link.break_off()
    await tapped.until('"t": "welcome"', 2)
    await link.forget("1-ends")
    await link.call("stop", {"job_id": "1-runs", "grace_s": 1.0})
    await tapped.until('"end": "stopped"')
    await tapped.until('"logged": true', 4)
    await link.call("shutdown", {})
    running.cancel()


async def main(output: io.TextIOBase) -> None:
    """Write a conversation."""
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(Path(folder) / "agent")
        agent.start()
        tapped = Tapped(agent)
        try:
            await converse(tapped)
        finally:
            agent.kill()
        output.write("\n".join(tapped.lines) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.stdout))  # type: ignore[arg-type]
