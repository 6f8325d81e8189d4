"""What runs for an SSH session, and how a process of this host does."""

import asyncio
import fcntl
import os
import signal
import struct
import termios
from abc import ABC, abstractmethod
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

READ_BYTES = 64 << 10
CHUNKS_MAX = 16
"""How much of the output may wait for a client that reads slowly; the program then waits too."""
SETTLE_TIMEOUT_S = 1.0

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
