"""The way from the agent to a replica's port: through the host's own network if that leads there, else by a channel."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from dstack.agent.connecting import connect_to, refusal_text
from dstack.agent.serving.listening import Entry, leads_to, ports_in, table_of
from dstack.agent.serving.networks import Network
from dstack.kit import channels

DIRECT_TIMEOUT_S = 1.0
"""Of a connection to a container's address: packets to a network that is not this host's may be dropped silently."""


class NotKnown(Exception):
    """Nothing is known of the port at this moment; the reason is for people."""


class Unreachable(Exception):
    """The port takes no connection; the reason is for people."""


@dataclass(slots=True)
class Way:
    """The way to the port of one job."""

    socket_path: str
    """That of the channels of this agent."""
    job_id: str
    port: int
    network: Callable[[], Network | None]
    address: str | None = None
    """See `JobReport.address`."""
    _is_direct: bool = True
    """Whether a container's address may lead to it from here."""

    async def connect(self) -> socket.socket:
        """Return a connection. The time is the caller's to bound.

        Raises:
            NotKnown, Unreachable
        """
        network = self.network()
        if network is None:
            raise NotKnown("the container engine has not described the container yet")
        try:
            if network.is_hosts:
                connected, self.address = await connect_to(network.addresses, self.port)
                return connected
            return await self._into(network)
        except channels.ChannelRefused as error:
            raise Unreachable(str(error)) from None
        except OSError as error:
            raise Unreachable(refusal_text(error, self.port)) from None

    async def _into(self, network: Network) -> socket.socket:
        """Connect to a container: through its address if the connection verifiably arrives there."""
        entries = await self._entries(network)
        if entries is not None and self.port not in ports_in(entries):
            raise Unreachable(f"nothing listens at port {self.port}")
        is_open = any(entry.is_open and entry.port == self.port for entry in entries or ())
        if self._is_direct and is_open and network.addresses:
            if (connected := await self._direct(network)) is not None:
                self.address = network.addresses[0]
                return connected
            if self.address is not None:  # it led there before
                raise Unreachable(f"port {self.port} did not accept a connection in time")
            self._is_direct = False
        self.address = None
        try:
            return await channels.connect(self)
        except channels.ChannelRefused:
            raise
        except OSError as error:  # the SSH server starts again, for example
            raise NotKnown(f"there are no channels into containers now: {error}") from None

    async def _direct(self, network: Network) -> socket.socket | None:
        try:
            connected, _ = await connect_to(network.addresses, self.port, DIRECT_TIMEOUT_S)
        except OSError:
            return None
        entries = await self._entries(network)
        if entries is not None and leads_to(connected, entries):
            return connected
        connected.close()
        return None

    async def _entries(self, network: Network) -> list[Entry] | None:
        if network.pid is None:
            return None
        try:
            return await asyncio.to_thread(table_of, network.pid)
        except OSError as error:  # it has just ended
            raise NotKnown(f"the network of the container cannot be read: {error}") from None
