"""The terminal of a command, on a system that has terminals and on Windows, which has consoles."""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

if sys.platform == "win32":
    import ctypes
    import msvcrt

    VIRTUAL_TERMINAL_OUTPUT, VIRTUAL_TERMINAL_INPUT = 0x0004, 0x0200
    """Of a console's modes: it understands the sequences of terminals, and sends them for keys."""
    UTF_8 = 65001

    def understand_colors(stream: TextIO) -> None:
        """Make a console understand the sequences that colour text and move the cursor."""
        if stream.isatty():
            handle = _handle(stream.fileno())
            if (mode := _mode(handle)) is not None:
                ctypes.windll.kernel32.SetConsoleMode(handle, mode | VIRTUAL_TERMINAL_OUTPUT)

    @contextmanager
    def raw(descriptor: int) -> Iterator[None]:
        """Make every key arrive as it is typed, also Ctrl-C; restore the console afterwards."""
        console = ctypes.windll.kernel32
        handle = _handle(descriptor)
        if (mode := _mode(handle)) is None:
            yield
            return
        pages = console.GetConsoleCP(), console.GetConsoleOutputCP()
        console.SetConsoleMode(handle, VIRTUAL_TERMINAL_INPUT)
        try:
            console.SetConsoleCP(UTF_8)
            console.SetConsoleOutputCP(UTF_8)
            yield
        finally:
            console.SetConsoleMode(handle, mode)
            console.SetConsoleCP(pages[0])
            console.SetConsoleOutputCP(pages[1])

    def write(stream: TextIO, data: memoryview) -> int:
        """Write bytes past a stream's own buffer. Returns how many were taken; a console takes UTF-8."""
        if not stream.isatty():
            return os.write(stream.fileno(), data)
        stream.buffer.write(data)
        stream.buffer.flush()
        return len(data)

    def reader_leaves(stream: TextIO, within_s: float) -> bool:
        """Wait. On this system only the next write shows that the reader of a stream has left."""
        time.sleep(within_s)
        return False

    def _handle(descriptor: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))

    def _mode(handle: ctypes.c_void_p) -> int | None:
        """Return the modes of a console; None for another file."""
        mode = ctypes.c_uint32()
        return mode.value if ctypes.windll.kernel32.GetConsoleMode(handle, ctypes.byref(mode)) else None

else:

    def understand_colors(stream: TextIO) -> None:
        """Do nothing: a terminal understands them."""

    @contextmanager
    def raw(descriptor: int) -> Iterator[None]:
        """Make every key arrive as it is typed, also Ctrl-C; restore the terminal afterwards."""
        import termios
        import tty

        if not os.isatty(descriptor):
            yield
            return
        before = termios.tcgetattr(descriptor)
        try:
            tty.setraw(descriptor, termios.TCSADRAIN)  # keys that were typed ahead are for the command
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    def write(stream: TextIO, data: memoryview) -> int:
        """Write bytes past a stream's own buffer. Returns how many were taken."""
        return os.write(stream.fileno(), data)

    def reader_leaves(stream: TextIO, within_s: float) -> bool:
        """Wait that long, or until the reader of a stream has left; return whether it has."""
        if stream.isatty():  # not every system can poll a terminal, whose end is a signal anyway
            time.sleep(within_s)
            return False
        poll = select.poll()
        poll.register(stream, 0)  # an end is reported without being requested
        return bool(poll.poll(within_s * 1000))
