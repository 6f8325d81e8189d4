"""The process of a command: its three streams, and the signals that end it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType
from typing import TextIO

from dstack.errors import ClientError, ConfigurationError, DstackError
from dstack.kit import terminals

ENDING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if name in signal.Signals.__members__)
"""The last one is that of Windows, for a console that is closed."""


def prepare_streams() -> None:
    """Open all three streams, also those that the parent closed; read stdin as UTF-8, like files.

    A character that the terminal's encoding lacks is shown as its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, it lives as long as the process
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for stream in (sys.stdout, sys.stderr):
        terminals.understand_colors(stream)


@contextmanager
def ended_in_good_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command like an exception, so that it closes its files and tunnels.

    An ignored signal, such as under `nohup`, stays ignored. Further signals do not interrupt the clean-up.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) is end:
                signal.signal(number, handler)


def end_by_signals() -> None:
    """Restore the default of SIGTERM and SIGHUP: a server cleans up, and then the signal ends it.

    Supervisors such as systemd treat that as a clean end, and an exit code of 143 as a failure.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


@contextmanager
def output() -> Iterator[None]:
    """Write to stdout inside the `with`.

    Raises:
        ClientError: the system refuses to write; the message has the cause.
        BrokenPipeError: the reader has closed stdout.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        from dstack.kit import systems

        drop(sys.stdout)
        if systems.has_reader_left(error):
            raise BrokenPipeError from error
        raise ClientError(
            f"The output cannot be written: {error.strerror}", hint="Free disk space, or write to another file"
        ) from error


def drop(stream: TextIO) -> None:
    """Drop the buffered and all later output, which must not fail again, nor at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def refusal_of(error: OSError) -> DstackError:
    """Return the system's refusal as an error for users."""
    try:
        os.getcwd()
    except OSError:
        return ConfigurationError("The current folder no longer exists", hint="Change into another folder")
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return ClientError(f"The system refused an operation of this command: {why}")
    return ClientError(f"`{os.fsdecode(error.filename)}` cannot be used: {why}")
