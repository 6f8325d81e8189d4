"""The address of the server: a configured one, or that of the embedded server."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from dstack.api import _places
from dstack.kit.locks import is_locked

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    return urlsplit(url).hostname in LOOPBACK_HOSTS


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL, without a slash at its end, and this user's token."""

    url: str
    token: str = field(repr=False)


class Server(Protocol):
    """The interface by which a transport finds a server's address."""

    def find(self) -> Address:
        """Return the server's address.

        Raises:
            ServerUnreachableError: no server runs, and none could be started.
        """
        ...

    def is_running(self) -> bool:
        """Return whether `find` starts no server. A server elsewhere counts as running."""
        ...

    def is_own(self) -> bool:
        """Return whether the server is this user's own, on this machine."""
        ...

    def lost(self, address: Address) -> bool:
        """Record that no server answers at `address`. Returns whether `find` may now return another address."""
        ...


@dataclass(frozen=True, slots=True)
class FixedServer:
    """A server at an address from an argument, the environment or the configuration file."""

    address: Address

    def find(self) -> Address:
        return self.address

    def is_running(self) -> bool:
        return True

    def is_own(self) -> bool:
        # A loopback address may be a tunnel to another machine, which lacks this machine's folders.
        own = announced(_places.server_folder())
        return own is not None and is_loopback(self.address.url) and _port(own.url) == _port(self.address.url)

    def lost(self, address: Address) -> bool:
        return False


def announced(folder: Path) -> Address | None:
    """Return the address that a data folder's server has written there; None if no server runs, or one only starts."""
    try:
        if not is_locked(folder / "server.lock"):
            return None  # by now, its process id and its port may be another program's
        holder, state = (json.loads((folder / name).read_bytes()) for name in ("server.lock", "server.json"))
        is_former = holder["pid"] != state["pid"]  # the address is the former server's until this one serves
        return None if is_former else Address(state["url"], state["token"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _port(url: str) -> int | None:
    return urlsplit(url).port
