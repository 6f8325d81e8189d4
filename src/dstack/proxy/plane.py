"""The data plane of one server: its connections, its routes, and what they have in common."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from dstack.kit.tasks import TaskGroup
from dstack.protocol.proxy import Target
from dstack.proxy.admission import authorize, check_limits, forwarded, refuse_unknown, target_at_name
from dstack.proxy.answers import Refusal, answer_of, reply_of
from dstack.proxy.balance import ReplicaState
from dstack.proxy.clients import ClientConnection
from dstack.proxy.collecting import Choose, ModelExchange
from dstack.proxy.exchanges import Exchange
from dstack.proxy.heads import Heads
from dstack.proxy.holding import Holding
from dstack.proxy.replicas import IDLE_MAX_S, ReplicaConnection, connect
from dstack.proxy.routes import Route, Routes

log = logging.getLogger(__name__)

CHECK_EVERY_S = 0.5
CLIENTS_MAX = 8192
KEPT_MAX = 256
KEPT_FOR_S = 10.0
"""A connection waits for so long for a server that restarts."""

Give = Callable[[socket.socket, bytes], bool]
"""Gives a connection to the server; returns False where none is connected."""


class DataPlane:
    """All that the connections of one data plane share."""

    def __init__(self, clients_max: int = CLIENTS_MAX) -> None:
        self.routes = Routes()
        self.heads = Heads()
        self.tasks = TaskGroup()
        self.holding = Holding(self, clients_max // 2)
        self.routes.on_change = self.holding.follow
        self.is_leaving = False
        """Whether it ends: each connection closes behind its answer."""
        self.is_server_away = False
        self.give_to_server: Give | None = None
        self.on_drained: Callable[[str], None] = lambda job_id: None
        self.on_state: Callable[[str, bool, str], None] = lambda job_id, is_up, reason: None
        self.on_answer: Callable[[Exchange, Route, float], None] | None = None
        self.choose_model: Choose | None = None
        self.collected_bytes = 0
        """Of bodies that wait for `choose_model`."""
        self._clients: dict[ClientConnection, None] = {}
        self._clients_max = clients_max
        self._when_empty: asyncio.Event | None = None
        self._kept: dict[ClientConnection, tuple[bytes, float]] = {}
        """Connections for the server, which is away, each with what was read of its request, and its deadline."""
        self._loop = asyncio.get_running_loop()
        self.now_s = monotonic
        self.soon = self._loop.call_soon

    # Clients

    def enter(self, client: ClientConnection) -> None:
        """Take a connection in. Above the bound, an idle one has to leave."""
        self._clients[client] = None
        if len(self._clients) > self._clients_max:
            oldest = next((one for one in self._clients if one.is_idle), client)
            self.exit(oldest)
            oldest.transport.abort()

    def exit(self, client: ClientConnection) -> None:
        """Forget a connection that is lost."""
        self._clients.pop(client, None)
        self._kept.pop(client, None)
        if self._when_empty is not None and not self._clients:
            self._when_empty.set()

    async def watch(self) -> None:
        """End connections of clients that are too slow, and those to replicas that are idle."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            self.check()

    def check(self) -> None:
        """Do what `watch` does, once."""
        now_s = self.now_s()
        for client in list(self._clients):
            if client not in self._kept:
                client.check(now_s)
        for client in [client for client, (_, until_s) in self._kept.items() if until_s < now_s]:
            del self._kept[client]
            self._refuse_for_server(client)
        for route in self.routes:
            route.replicas.close_idle(now_s - IDLE_MAX_S)
        self.holding.check(now_s)

    def leave(self) -> None:
        """End each connection behind its answer, and give those without a request to the server, if there is one."""
        self.is_leaving = True
        self.holding.leave()
        for client in list(self._clients):
            client.leave()

    async def end(self, within_s: float) -> None:
        """Let each connection end behind its answer, and end all after a time."""
        self.leave()
        if self._clients:
            self._when_empty = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._when_empty.wait()
        for client in list(self._clients):
            client.transport.abort()

    def give(self, client: ClientConnection, received: bytes) -> None:
        """Give a connection, whose next request is not for a service, to the server; while it is away, keep it a while.

        So no client notices the restart of a server.
        """
        if self.hand_over(client, received):
            return
        if len(self._kept) < KEPT_MAX:
            client.transport.pause_reading()
            self._kept[client] = received, self.now_s() + KEPT_FOR_S
        else:
            self._refuse_for_server(client)

    def hand_over(self, client: ClientConnection, received: bytes) -> bool:
        """Give a connection to the server; return False where none is connected."""
        carried = client.transport.get_extra_info("socket")
        if self.give_to_server is None or not self.give_to_server(carried, received):
            return False
        client.transport.abort()  # this process's descriptor alone: the connection lives on
        return True

    def server_is_back(self) -> None:
        """Give the server the connections that have waited for it."""
        kept, self._kept = self._kept, {}
        for client, (received, _) in kept.items():
            self.give(client, received)

    def _refuse_for_server(self, client: ClientConnection) -> None:
        refusal = Refusal(503, "server_away", "The dstack server is not running", retry_after_s=2)
        client.transport.write(answer_of(reply_of(refusal, is_openai=False)))
        client.transport.close()

    # Requests

    def admit(self, client: ClientConnection, exchange: Exchange) -> None:
        """Send a request to its service. Raises `Refusal`."""
        fields = exchange.fields
        route = self.routes.by_prefix.get(exchange.prefix)
        if route is None:
            if isinstance(exchange, ModelExchange):
                exchange.admit()
                return
            refuse_unknown(self.routes, exchange.prefix, exchange.rest, fields, self.is_server_away)
        hides_token = route.needs_token
        if hides_token:
            authorize(self.routes, route.service.project, fields, self.is_server_away)
        elif fields.authorization is not None:  # a token of ours is for no replica
            hides_token = self.routes.projects_of(fields.authorization) is not None
        if route.buckets:
            check_limits(route, exchange.rest, client.address, fields, self.now_s())
        target = exchange.rest if route.strips_prefix else exchange.target
        if exchange.rest[:1] != b"/":
            target = target_at_name(exchange.method, exchange.prefix, exchange.rest, fields, target)
        if client.forwarded_for != (fields, route, hides_token):
            lines = fields.lines(with_token=not hides_token)
            client.forwarded = lines + forwarded(client.address, fields, route.prefix)
            client.forwarded_for = (fields, route, hides_token)
        exchange.start(route, b"%b %b HTTP/1.1\r\n%b" % (exchange.method, target, client.forwarded))

    # Replicas

    async def connect(self, target: Target) -> ReplicaConnection:
        """Connect to a replica. Raises `OSError`."""
        return await connect(target, self.heads)

    def is_down(self, replica: ReplicaState, reason: str) -> None:
        """Note that a connection to a replica has failed."""
        if not replica.down_for_s:
            self.on_state(replica.replica.job_id, False, reason)
        replica.failed(self.now_s())

    def is_up(self, replica: ReplicaState) -> None:
        """Note that a connection to a replica has succeeded."""
        if replica.down_for_s:
            self.on_state(replica.replica.job_id, True, "")
            replica.succeeded()

    def left(self, replica: ReplicaState) -> None:
        """Note that a request has left a replica."""
        if replica.is_draining and not replica.outstanding:
            self.on_drained(replica.replica.job_id)
