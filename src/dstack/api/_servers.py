"""Where the server is: an address that was given, or the embedded server, which is started where it is missing."""

from dataclasses import dataclass, field
from typing import Protocol


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

    def lost(self, address: Address) -> bool:
        """Told that nobody answers at `address`; returns whether `find` may now have a better answer."""
        ...


@dataclass(frozen=True, slots=True)
class FixedServer:
    """A server that somebody else runs, at an address from an argument, the environment or the configuration file."""

    address: Address

    def find(self) -> Address:
        return self.address

    def lost(self, address: Address) -> bool:
        return False
