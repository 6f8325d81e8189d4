"""What runs for an SSH session: a process of this host, or one that the engine starts inside a container."""

import asyncio
import fcntl
import logging
import os
import signal
import struct
import termios
from abc import ABC, abstractmethod
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dstack.agent import processes
from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused

log = logging.getLogger(__name__)

READ_BYTES = 64 << 10
CHUNKS_MAX = 16
"""How much of the output may wait for a client that reads slowly; the program then waits too."""
SETTLE_TIMEOUT_S = 1.0
DETACH_KEYS = ",".join(["ctrl-^"] * 12)
"""What nobody types: the engine's own keys for leaving a terminal would swallow Ctrl-P."""
INSPECT_S = 0.005
INSPECT_TRIES = 400
HANG_UP_TIMEOUT_S = 600.0
"""An engine that hangs for so long has worse trouble than a program that nobody waits for."""
FIRST_HANG_UP_S, LONGEST_HANG_UP_S = 0.02, 5.0

_ON_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'
"""A leader of a session that opens a terminal has it as its own from then on."""


_tasks: set[asyncio.Task[object]] = set()


def in_background(work: Coroutine[Any, Any, object], name: str) -> None:
    """Have something small done that nobody waits for."""
    task = asyncio.create_task(work, name=name)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def settled() -> None:
    """Wait a moment until all of that is done: this process is about to end."""
    await asyncio.sleep(0)  # who was told to leave says so first
    if _tasks:
        await asyncio.wait(set(_tasks), timeout=SETTLE_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Terminal:
    """What the client sits at."""

    kind: str
    columns: int
    rows: int


class Program(ABC):
    """A program that runs, with its input and output."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Give it input, and wait while it takes no more."""

    @abstractmethod
    async def write_eof(self) -> None:
        """There is no more input."""

    @abstractmethod
    def output(self) -> AsyncIterator[tuple[bytes, bool]]:
        """What it prints, and whether that is an error output, until nobody can print any more."""

    @abstractmethod
    async def resize(self, columns: int, rows: int) -> None:
        """The client's terminal has another size."""

    @abstractmethod
    def signal(self, name: str) -> None:
        """Send it a signal, named without `SIG`."""

    @abstractmethod
    async def wait(self) -> int:
        """Its exit code; minus the number of a signal that ended it. To be called once all output is read."""

    @abstractmethod
    def hang_up(self) -> None:
        """The client is gone."""


async def start_on_host(argv: Sequence[str], env: Mapping[str, str], folder: str, terminal: Terminal | None) -> Program:
    """Start a process of this host, in a session of its own.

    Raises:
        OSError: it cannot be started.
    """
    if terminal is None:
        process = await asyncio.create_subprocess_exec(
            *argv, env=env, cwd=folder, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        return _OnPipes(process)
    ours, theirs = os.openpty()
    try:
        _set_size(ours, terminal.columns, terminal.rows)
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", _ON_TERMINAL, os.ttyname(theirs), *argv),
            env=env,
            cwd=folder,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )
        return _OnTerminal(process, ours, theirs)
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise


class _OfHost(Program):
    def __init__(self, process: Process) -> None:
        self._process = process

    def signal(self, name: str) -> None:
        with suppress(ProcessLookupError, KeyError):
            os.killpg(self._process.pid, signal.Signals[f"SIG{name}"])

    async def wait(self) -> int:
        return await self._process.wait()

    def hang_up(self) -> None:
        if self._process.returncode is None:
            self.signal("HUP")


class _OnPipes(_OfHost):
    async def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def write_eof(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def output(self) -> AsyncIterator[tuple[bytes, bool]]:
        assert self._process.stdout is not None and self._process.stderr is not None
        async for part in _merged(self._process.stdout, self._process.stderr):
            yield part

    async def resize(self, columns: int, rows: int) -> None:
        return


class _OnTerminal(_OfHost):
    def __init__(self, process: Process, master: int, slave: int) -> None:
        super().__init__(process)
        os.set_blocking(master, False)
        self._master = master
        self._slave = slave
        """Kept open until the end: without anybody on the other side, reading a terminal fails."""
        self._may_have_news = asyncio.Event()
        self._exit = asyncio.create_task(process.wait(), name="end of a program on a terminal")
        self._exit.add_done_callback(lambda _: self._may_have_news.set())

    async def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self._master >= 0:
            try:
                left = left[os.write(self._master, left) :]
            except BlockingIOError:
                await _writable(self._master)

    async def write_eof(self) -> None:
        await self.write(b"\x04")

    async def output(self) -> AsyncIterator[tuple[bytes, bool]]:
        loop = asyncio.get_running_loop()
        while self._master >= 0:
            has_exited = self._exit.done()
            try:
                chunk = os.read(self._master, READ_BYTES)
            except BlockingIOError:
                if has_exited:  # what it left behind may hold the terminal; nobody waits for that
                    return
                self._may_have_news.clear()
                loop.add_reader(self._master, self._may_have_news.set)
                try:
                    await self._may_have_news.wait()
                finally:
                    loop.remove_reader(self._master)
                continue
            except OSError:
                return
            yield chunk, False

    async def resize(self, columns: int, rows: int) -> None:
        if self._master >= 0:
            _set_size(self._master, columns, rows)

    def hang_up(self) -> None:
        super().hang_up()
        for descriptor in {self._master, self._slave} - {-1}:
            os.close(descriptor)
        self._master = self._slave = -1


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(descriptor, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(descriptor)


def _set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))


async def _merged(output: StreamReader, errors: StreamReader) -> AsyncIterator[tuple[bytes, bool]]:
    """What comes from both, as it comes."""
    parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue(CHUNKS_MAX)

    async def pump(source: StreamReader, is_error: bool) -> None:
        while chunk := await source.read(READ_BYTES):
            await parts.put((chunk, is_error))
        await parts.put((b"", is_error))

    pumps = [asyncio.create_task(pump(source, bad), name="output") for source, bad in ((output, False), (errors, True))]
    try:
        open_ends = len(pumps)
        while open_ends:
            chunk, is_error = await parts.get()
            if chunk:
                yield chunk, is_error
            else:
                open_ends -= 1
    finally:
        for task in pumps:
            task.cancel()


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
        raise EngineAway("the engine does not say how the program ended")

    def hang_up(self) -> None:
        in_background(self._hang_up(), "hangs up")

    async def _hang_up(self) -> None:
        try:
            # First: an engine that finds the streams closed may take what still runs for ended, and forget its pid.
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await self._send_until_done("HUP")
        except TimeoutError:
            log.warning("A program may still run that nobody waits for: the engine does not report its pid")
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
