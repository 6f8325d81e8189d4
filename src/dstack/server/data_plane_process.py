"""The process of a data plane: where it listens for servers, its start, and the socket that it has kept."""

import asyncio
import logging
import os
import select
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from msgspec import DecodeError, json

from dstack import __version__
from dstack.agent.paths import make_private_folder, socket_path
from dstack.kit.folders import make_private
from dstack.kit.locks import is_locked
from dstack.kit.passing import FRAME_HEAD, Passing
from dstack.protocol.proxy import LEAVING, LOCK, Hello, Release

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
HELLO_TIMEOUT_S = 2.0


def control_path(folder: Path) -> Path:
    """Return the path of the socket at which a data plane listens for servers."""
    return socket_path(folder, "control")


def is_alive(folder: Path) -> bool:
    """Return whether a data plane serves a folder."""
    return is_locked(folder / LOCK)


def start(folder: Path) -> bool:
    """Start a data plane that outlives this process; return whether it is ready. Blocks."""
    make_private(folder)
    make_private_folder(control_path(folder).parent)
    ready, given = os.pipe()
    try:
        with open(folder / "proxy.log", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dstack.proxy", str(folder), str(control_path(folder)), str(given)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(given,),
                start_new_session=True,
            )
        threading.Thread(target=process.wait, name="reaper of the data plane", daemon=True).start()
        os.close(given)
        given = -1
        readable, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
        if readable and os.read(ready, 1):
            return True
        with suppress(subprocess.TimeoutExpired):
            log.error("The data plane does not start (exit code %s): see %s", process.wait(0.5), folder / "proxy.log")
        return False
    finally:
        os.close(ready)
        if given >= 0:
            os.close(given)


def inherited_listener(folder: Path, host: str, port: int) -> socket.socket | None:
    """Return the listening socket of a data plane that has outlived its server, if it has the wanted address.

    A data plane that has another address with the same port releases it.

    Args:
        port: 0 for whichever it has.
    """
    if not is_alive(folder):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(HELLO_TIMEOUT_S)
        try:
            control.connect(str(control_path(folder)))
            listener = _first_descriptor(control)
            if listener is None:
                return None
            address = listener.getsockname()
            if port in (0, address[1]) and address[0] in _addresses_of(host):
                return listener
            listener.close()
            if port == address[1]:
                _release(control)
        except OSError as error:
            log.warning("The data plane does not answer: %s", error)
    return None


async def greeting(connection: Passing) -> tuple[int, bool]:
    """Return the process of a data plane, and whether it has the version of this server, by its first message.

    Raises:
        EOFError, ConnectionError, TimeoutError, DecodeError: it does not greet.
    """
    async with asyncio.timeout(HELLO_TIMEOUT_S):
        frame, _ = await connection.receive()
    hello = json.decode(frame, type=Hello)
    return hello.pid, hello.version == __version__


def is_left_behind(folder: Path, job_id: str) -> bool:
    """Return whether a data plane that leaves still has requests of a job. Blocks."""
    for path in (folder / LEAVING).glob("*"):
        try:
            if is_locked(path) and job_id in json.decode(path.read_bytes(), type=list[str]):
                return True
        except FileNotFoundError:  # it has left
            continue
        except DecodeError:  # it is being written
            return True
    return False


def _addresses_of(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:  # the server itself reports it
        return set()


def _first_descriptor(control: socket.socket) -> socket.socket | None:
    """Return the socket in the first messages of a data plane. It sends `Hello`, then `Listener` if it has one."""
    received = b""
    while received.count(b'"type"') < 2:
        data, descriptors, _, _ = socket.recv_fds(control, 4096, 4)
        if descriptors:
            for other in descriptors[1:]:
                os.close(other)
            os.set_inheritable(descriptors[0], False)
            return socket.socket(fileno=descriptors[0])
        if not data:
            return None
        received += data
    return None


def _release(control: socket.socket) -> None:
    frame = json.encode(Release())
    control.sendall(FRAME_HEAD.pack(len(frame), False) + frame)
    while control.recv(4096):
        pass
