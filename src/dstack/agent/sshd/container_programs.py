"""Programs that the engine starts inside a container, for SSH sessions."""

import asyncio
import logging
import os
import signal
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dstack.agent import processes
from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.sshd.programs import READ_BYTES, Program, Terminal, in_background

log = logging.getLogger(__name__)

DETACH_KEYS = ",".join(["ctrl-^"] * 12)
"""What nobody types: the engine's own keys for leaving a terminal would swallow Ctrl-P."""
INSPECT_S = 0.005
INSPECT_TRIES = 400
HANG_UP_TIMEOUT_S = 600.0
"""An engine that hangs for so long has worse trouble than a program that nobody waits for."""
FIRST_HANG_UP_S, LONGEST_HANG_UP_S = 0.02, 5.0


async def start_in_container(
    engine: ContainerEngine,
    container_id: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    terminal: Terminal | None,
) -> Program:
    """Start a process inside a container: with its user, its limits and its environment.

    Cancelled, it still hangs up what the engine has begun to start.

    Raises:
        EngineRefused, EngineAway
    """
    starting = asyncio.create_task(_start(engine, container_id, argv, env, terminal), name="start in a container")
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        in_background(_hang_up_once_started(starting), "hangs up what has just started")
        raise


async def _hang_up_once_started(starting: "asyncio.Task[_InContainer]") -> None:
    with suppress(EngineRefused, EngineAway):  # it has not started
        (await starting).hang_up()


async def _start(
    engine: ContainerEngine,
    container_id: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    terminal: Terminal | None,
) -> "_InContainer":
    made = await engine.call(
        "POST",
        f"/containers/{container_id}/exec",
        {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": terminal is not None,
            "DetachKeys": DETACH_KEYS,
            "Cmd": list(argv),
            "Env": [f"{name}={value}" for name, value in env.items()],
            **({"ConsoleSize": [terminal.rows, terminal.columns]} if terminal else {}),
        },
    )
    id = str(made["Id"])
    reader, writer, waiting = await engine.upgrade(f"/exec/{id}/start", {"Detach": False, "Tty": terminal is not None})
    program = _InContainer(engine, id, reader, writer, waiting, has_terminal=terminal is not None)
    if terminal is not None:
        await program.resize(terminal.columns, terminal.rows)
    return program


def is_starting(state: Mapping[str, Any]) -> bool:
    """Return whether a program in a container has neither a pid nor an end yet.

    An engine passes output on before it knows the pid. It accepts a start before the program counts as running.

    Args:
        state: the engine's answer about the program.

    Examples:
        >>> is_starting({"Running": True, "Pid": 0, "ExitCode": None})
        True
        >>> is_starting({"Running": False, "Pid": 0, "ExitCode": 0})
        False
    """
    return not state.get("Pid") and (bool(state.get("Running")) or state.get("ExitCode") is None)


class _InContainer(Program):
    def __init__(
        self,
        engine: ContainerEngine,
        id: str,
        reader: StreamReader,
        writer: StreamWriter,
        waiting: bytes,
        *,
        has_terminal: bool,
    ) -> None:
        self._engine = engine
        self._id = id
        self._reader = reader
        self._writer = writer
        self._waiting = waiting
        self._has_terminal = has_terminal
        self._ended = False

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        if self._has_terminal:
            await self.write(b"\x04")
        elif self._writer.can_write_eof():
            self._writer.write_eof()

    async def output(self) -> AsyncIterator[tuple[bytes, bool]]:
        if self._has_terminal:
            if self._waiting:
                yield self._waiting, False
            while chunk := await self._reader.read(READ_BYTES):
                yield chunk, False
            return
        while head := await self._exactly(8):
            left = int.from_bytes(head[4:], "big")
            while left:
                chunk = await self._some(left)
                if not chunk:
                    return
                left -= len(chunk)
                yield chunk, head[0] == 2

    async def _some(self, count: int) -> bytes:
        if self._waiting:
            chunk, self._waiting = self._waiting[:count], self._waiting[count:]
            return chunk
        return await self._reader.read(min(count, READ_BYTES))

    async def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            chunk = await self._some(count - len(got))
            if not chunk:
                return b""
            got += chunk
        return got

    async def resize(self, columns: int, rows: int) -> None:
        with suppress(EngineRefused, EngineAway):  # it has ended, or not quite begun
            await self._engine.call("POST", f"/exec/{self._id}/resize", query={"w": columns, "h": rows})

    def signal(self, name: str) -> None:
        in_background(self._send_until_done(name), f"sends {name}")

    async def wait(self) -> int:
        for _ in range(INSPECT_TRIES):
            state = await self._engine.call("GET", f"/exec/{self._id}/json")
            if not state.get("Running"):
                self._ended = True
                return int(state.get("ExitCode") or 0)
            await asyncio.sleep(INSPECT_S)
        raise EngineAway("the engine does not report how the program ended")

    def hang_up(self) -> None:
        in_background(self._hang_up(), "hangs up")

    async def _hang_up(self) -> None:
        try:
            # First: an engine that finds the streams closed may take what still runs for ended, and forget its pid.
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await self._send_until_done("HUP")
        except TimeoutError:
            log.warning("A program may run on unobserved: the engine does not report its pid")
        finally:
            self._writer.close()

    async def _send_until_done(self, name: str) -> None:
        pause_s = FIRST_HANG_UP_S
        while not self._ended and not await self._send(name):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_HANG_UP_S)

    async def _send(self, name: str) -> bool:
        """To all of its session: it leads one. Only root of the host may, and where the host sees its processes.

        Returns: False where it may be worth another try.
        """
        try:
            state = await self._engine.call("GET", f"/exec/{self._id}/json")
            if is_starting(state):
                return False
            pid = int(state.get("Pid") or 0)
            if state.get("Running") and pid > 1 and processes.is_grouped(pid, str(state["ContainerID"])):
                os.killpg(os.getpgid(pid), signal.Signals[f"SIG{name}"])
        except (EngineRefused, KeyError, PermissionError, ProcessLookupError):
            return True
        except (EngineAway, OSError):
            return False
        return True
