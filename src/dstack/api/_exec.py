"""Run one command inside a job, with this process's input and output. Bytes pass unchanged and at once."""

import asyncio
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstack.api._connection import cause, connect
from dstack.api._keys import Identity
from dstack.errors import SSHError
from dstack.kit import terminals
from dstack.kit.tasks import apart
from dstack.protocol.views import AccessView

if TYPE_CHECKING:
    import asyncssh

READ_BYTES = 64 << 10
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
DEFAULT_SIZE = os.terminal_size((80, 24))
RESIZED = signal.Signals.__members__.get("SIGWINCH")
"""The signal of a terminal that has changed its size; None where the system has none."""
LOOK_AT_SIZE_EVERY_S = 0.5
SIGNALS = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM"),
    *("TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF"),
    *("WINCH", "IO", "PWR", "SYS"),
)
"""By number, beginning with 1, where jobs run; other systems have other numbers, or lack the signal."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The descriptors of this process for a command's input and output."""

    input: int = 0
    output: int = 1
    errors: int = 2


def execute(access: AccessView, identity: Identity, command: str, ends: Ends, *, has_terminal: bool) -> int:
    """Run a command inside a job until it ends, and return its exit code: 128 + n after signal n.

    In the main thread, SIGINT and SIGTERM are sent to the command.

    Args:
        access: the job's address.
        identity: the SSH key.
        command: a command for the job's shell.
        ends: the descriptors for the command's input and output.
        has_terminal: whether the command gets a terminal; the terminal of `ends` is then in raw mode.

    Raises:
        SSHError: the connection could not be opened, or was lost.
        KeyboardInterrupt: a second SIGINT arrived before the command ended.
        BrokenPipeError: the reader of the command's output has closed it.
    """
    with terminals.raw(ends.input) if has_terminal else nullcontext():
        try:
            return asyncio.run(_execute(access, identity, command, ends, has_terminal=has_terminal))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _execute(access: AccessView, identity: Identity, command: str, ends: Ends, *, has_terminal: bool) -> int:
    import asyncssh

    async with await connect(access, identity) as link:
        try:
            process = await link.create_process(command, encoding=None, **_terminal(ends, is_wanted=has_terminal))
            with _signals_to(process), _size_of(ends, process, has_terminal=has_terminal):
                feeding = asyncio.create_task(_feed(ends.input, process.stdin), name="input of a command")
                try:
                    await asyncio.gather(_copy(process.stdout, ends.output), _copy(process.stderr, ends.errors))
                    await process.wait_closed()
                finally:
                    feeding.cancel()
        except asyncssh.Error as error:
            raise SSHError(f"The connection to the job was lost: {cause(error)}") from error
    return _exit_code(process)


def _terminal(ends: Ends, *, is_wanted: bool) -> dict[str, Any]:
    if not is_wanted:
        return {"request_pty": False}
    columns, rows = _size(ends)
    return {"request_pty": "force", "term_type": os.environ.get("TERM", "xterm"), "term_size": (columns, rows)}


def _size(ends: Ends) -> os.terminal_size:
    try:
        return os.get_terminal_size(ends.output)
    except OSError:
        return DEFAULT_SIZE


def _exit_code(process: "asyncssh.SSHClientProcess[bytes]") -> int:
    if process.exit_signal is not None:
        return 128 + SIGNALS.index(process.exit_signal[0]) + 1
    if process.exit_status is None:
        raise SSHError(
            "The connection to the job was lost while the command ran", hint="`dstack ps` shows whether it still runs"
        )
    return process.exit_status


async def _feed(source: int, far: "asyncssh.SSHWriter[bytes]") -> None:
    with suppress(OSError):  # the command takes no more
        while chunk := await _read(source):
            far.write(chunk)
            await far.drain()
        far.write_eof()


async def _read(source: int) -> bytes:
    """Return the bytes that can be read now; none at the end, and without any input."""
    while True:
        try:
            if await _readable(source):
                return os.read(source, READ_BYTES)
            return await apart(lambda: os.read(source, READ_BYTES), "dstack-input")
        except BlockingIOError:
            continue
        except OSError:
            return b""


async def _readable(descriptor: int) -> bool:
    """Wait until it can be read; return False where the system cannot report it, so that reading may block."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except OSError:  # a file, or no input: always readable
        return True
    except NotImplementedError:
        return False
    try:
        await readable.wait()
        return True
    finally:
        loop.remove_reader(descriptor)


async def _copy(far: "asyncssh.SSHReader[bytes]", target: int) -> None:
    while chunk := await far.read(READ_BYTES):
        await asyncio.to_thread(_write, target, chunk)


def _write(target: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:  # another process that shares the descriptor has made it non-blocking
            select.select([], [target], [])


@contextmanager
def _signals_to(process: "asyncssh.SSHClientProcess[bytes]") -> Iterator[None]:
    """Send SIGINT and SIGTERM to the command. A second SIGINT ends the wait for it."""
    loop, waiting, interrupts = asyncio.get_running_loop(), asyncio.current_task(), 0

    def pass_on(number: signal.Signals) -> None:
        nonlocal interrupts
        interrupts += number is signal.SIGINT
        if interrupts > 1 and waiting is not None:
            waiting.cancel()
        else:
            process.send_signal(number.name.removeprefix("SIG"))

    with _handlers({number: lambda number=number: pass_on(number) for number in PASSED_ON}, loop):
        yield


@contextmanager
def _size_of(ends: Ends, process: "asyncssh.SSHClientProcess[bytes]", *, has_terminal: bool) -> Iterator[None]:
    """Pass size changes of this process's terminal on to the command's terminal."""

    def change() -> None:
        process.change_terminal_size(*_size(ends))

    async def look() -> None:
        known = _size(ends)
        while True:
            await asyncio.sleep(LOOK_AT_SIZE_EVERY_S)
            if known != (known := _size(ends)):
                change()

    if has_terminal and RESIZED is None:
        looking = asyncio.create_task(look(), name="size of a terminal")
        try:
            yield
        finally:
            looking.cancel()
        return
    with _handlers({RESIZED: change} if has_terminal and RESIZED else {}, asyncio.get_running_loop()):
        yield


@contextmanager
def _handlers(handlers: dict[signal.Signals, Any], loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Not the loop's own handlers, which not every system has; a call from a handler wakes the loop everywhere.
    former = {
        number: signal.signal(number, lambda *_, handler=handler: loop.call_soon_threadsafe(handler))
        for number, handler in handlers.items()
    }
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)
