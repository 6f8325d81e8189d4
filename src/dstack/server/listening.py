"""The address of a server: its listening socket, which a data plane may have kept, and the folder of its data plane."""

import logging
import socket
from pathlib import Path
from typing import NamedTuple

from dstack.errors import ConfigurationError
from dstack.kit.addresses import authority, reason_of
from dstack.kit.folders import make_private
from dstack.kit.locks import take
from dstack.server.data_plane_process import inherited_listener
from dstack.server.ownership import Owner
from dstack.server.settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 2048
PROXY_FOLDER = "proxy"
SERVER_LOCK = "server.lock"
"""The file in the folder of a data plane that its server has locked."""


class Place(NamedTuple):
    """The place where a server listens. Keep it as long as the server lives."""

    listener: socket.socket
    folder: Path
    """Of its data plane."""
    lock_fd: int | None = None
    """Of the lock on this folder; None if the server has the whole data folder."""


def listen(settings: Settings, owner: Owner | None) -> Place:
    """Return the socket for clients: that of a data plane that has outlived its server, or a new one.

    Servers that share a data folder, perhaps over a network, have a folder for each machine and port. The server that
    has locked this folder is the only one that may ask its data plane for anything.

    Args:
        owner: of the data folder; None for one that several servers may share.

    Raises:
        ConfigurationError: the address cannot be used, or another server has the folder.
    """
    if owner is not None:
        folder = settings.data_dir / PROXY_FOLDER
        return Place(inherited_listener(folder, settings.host, settings.port) or _bound(settings), folder)
    listener = None if settings.port else _bound(settings)  # no former server is known to have had it
    port = settings.port if listener is None else listener.getsockname()[1]
    folder = settings.data_dir / f"{PROXY_FOLDER}-{socket.gethostname()}-{port}"
    lock_fd = _locked(folder)
    if listener is None and lock_fd is not None:
        listener = inherited_listener(folder, settings.host, port)
    if listener is None:
        listener = _bound(settings)
    if lock_fd is None:
        listener.close()
        raise ConfigurationError(
            f"Another server has the data plane in `{folder}`: it uses the port {port} too",
            hint="Choose another port with `dstack server --port PORT`, or another folder with `DSTACK_SERVER_DIR`",
        )
    return Place(listener, folder, lock_fd)


def _locked(folder: Path) -> int | None:
    """Lock the folder of a data plane; return None where another server has it. Raises `ConfigurationError`."""
    try:
        make_private(folder)
        return take(folder / SERVER_LOCK)
    except OSError as error:
        raise ConfigurationError(
            f"The folder `{folder}` cannot be used: {error.strerror}",
            hint="Check its permissions, or choose another data folder with `DSTACK_SERVER_DIR`",
        ) from error


def _bound(settings: Settings) -> socket.socket:
    # With its protocol named, asyncio sends small answers at once; otherwise each waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError, ValueError) as error:  # such as a port out of range, or an invalid name
        listener.close()
        raise ConfigurationError(
            f"The server cannot listen at `{authority(settings.host, settings.port)}`: {reason_of(error)}",
            hint="Choose another address with `dstack server --host ADDRESS --port PORT`",
        ) from error
    return listener
