"""Real data planes, and what tests send them by hand."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import json

from dstack.kit.locks import is_locked
from dstack.kit.passing import FRAME_HEAD
from dstack.protocol.proxy import LOCK, FromServer
from dstack.server.data_plane_process import control_path
from tests.e2e.home import wait_for


def pid_in(folder: Path) -> int:
    """Return the process of the data plane of a folder; 0 if it has not written it yet."""
    return int((folder / LOCK).read_text() or 0)


def end(folder: Path) -> None:
    """End the data plane that lives in a folder, if one does."""
    if is_locked(folder / LOCK) and (pid := pid_in(folder)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_for("the end of the data plane", lambda: not is_locked(folder / LOCK))


@contextmanager
def server_of(folder: Path) -> Iterator[socket.socket]:
    """Be the server of a data plane."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.connect(str(control_path(folder)))
        assert b'"type":"hello"' in control.recv(4096)
        yield control


def send(control: socket.socket, message: FromServer, carried: socket.socket | None = None) -> None:
    """Send a message to a data plane."""
    frame = json.encode(message)
    data = FRAME_HEAD.pack(len(frame), carried is not None) + frame
    socket.send_fds(control, [data], [] if carried is None else [carried.fileno()])
