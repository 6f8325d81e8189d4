"""Where the server is: an address that was given, or the embedded server, which is started where it is missing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from dstack.api import _places

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(url: str) -> bool:
    """Whether the URL is of this very machine."""
    return urlsplit(url).hostname in LOOPBACK_HOSTS


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL, without a slash at its end, and the token that it knows this user by."""

    url: str
    token: str = field(repr=False)


class Server(Protocol):
    """What a transport asks for an address."""

    def find(self) -> Address:
        """The server's address, good to send a request to.

        Raises:
            ServerUnreachableError: there is none, and none could be started.
        """
        ...

    def is_own(self) -> bool:
        """Whether it is a server of this very user, on this machine."""
        ...

    def lost(self, address: Address) -> bool:
        """Told that nobody answers at `address`; returns whether `find` may now have a better answer."""
        ...


@dataclass(frozen=True, slots=True)
class FixedServer:
    """A server that somebody else runs, at an address from an argument, the environment or the configuration file."""

    address: Address

    def find(self) -> Address:
        return self.address

    def is_own(self) -> bool:
        # A loopback address may be a tunnel's: another machine's, which knows nothing of the folders of this one.
        own = announced(_places.server_folder())
        return own is not None and is_loopback(self.address.url) and _port(own.url) == _port(self.address.url)

    def lost(self, address: Address) -> bool:
        return False


def announced(folder: Path) -> Address | None:
    """Return what the server that owns a data folder of this user says of itself; None where none lives there."""
    try:
        if not _places.is_locked(folder / "server.lock"):
            return None  # its process may be another program's by now, and so may its port
        state = json.loads((folder / "server.json").read_text(encoding="utf-8"))
        return Address(state["url"], state["token"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _port(url: str) -> int | None:
    return urlsplit(url).port
