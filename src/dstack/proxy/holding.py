"""Requests that wait for a replica, in the order of their arrival.

A service without a ready replica may have one on its way, or starts one for its first request. Its requests wait here.
The server keeps the connections of those that are whole: they outlive this data plane, and none of them runs twice.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count, islice
from typing import TYPE_CHECKING, Protocol

from dstack.proxy.admission import MODELS, without_replica
from dstack.proxy.answers import Refusal
from dstack.proxy.clients import BODY_TIMEOUT_S
from dstack.proxy.exchanges import Exchange
from dstack.proxy.framing import chunk, last_chunk
from dstack.proxy.routes import Route

if TYPE_CHECKING:
    from dstack.proxy.plane import DataPlane

HOLD_FOR_S = 600.0
"""Since the request has begun."""
HELD_BYTES_MAX = 128 << 20
"""Of heads and bodies of all requests that wait. Bodies for models have a bound of their own."""
KEPT_BYTES_MAX = 64 << 10
"""Of a request that the server keeps, with all that was read behind it."""
A_TURN = 64
"""Requests that go on at once; then others have their turn."""
RELEASE_TIMEOUT_S = 2.0
"""A server that takes no message for so long cannot give a request to another data plane either."""


class Guard(Protocol):
    """Keeps the connections of requests that wait, for the case that this data plane is lost."""

    def keep(self, id: int, sock: socket.socket, received: bytes) -> bool:
        """Keep a connection, whose next request has these bytes; return False where that is not possible."""

    def release(self, ids: Sequence[int]) -> None:
        """Forget connections."""

    def released(self) -> Awaitable[None]:
        """Wait until all that was released is forgotten even if this data plane is lost in the next moment."""


class _Held:
    __slots__ = ("id", "route", "size")

    def __init__(self, route: Route, size: int) -> None:
        self.route = route
        self.size = size
        self.id = 0
        """That at the guard; 0 for none."""


class Holding:
    """The requests of one data plane that wait."""

    def __init__(self, plane: "DataPlane", held_max: int) -> None:
        """Args: `held_max`: of all services; one service may have half of them."""
        self.guard: Guard | None = None
        self.on_held: Callable[[Route], None] = lambda route: None
        """Reports that a service has its first request that waits."""
        self.size = 0
        """Bytes of those that wait."""
        self._plane = plane
        self._max = held_max
        self._of_service_max = max(1, held_max // 2)
        self._held: dict[Exchange, _Held] = {}
        self._due: dict[Exchange, None] = {}
        """Those that need not wait any longer. They go on in batches."""
        self._going: asyncio.Task[None] | None = None
        self._ids = count(1)

    def __len__(self) -> int:
        return len(self._held)

    # In

    def hold(self, exchange: Exchange, route: Route) -> None:
        """Let a request wait for a replica, or refuse it."""
        head = _head_of(exchange)
        size = len(head) + (0 if _is_for_model(exchange) else exchange.received_bytes)
        refusal = self._refusal(exchange, route, size)
        if refusal is not None:
            exchange.client.refuse(exchange, refusal)
            return
        self._held[exchange] = _Held(route, size)
        self.size += size
        exchange.is_held = True
        if exchange.fields.expects_continue and not exchange.received_bytes:
            exchange.client.read_due_s = 0.0  # it sends its body once a replica asks for it
        if exchange.is_whole:
            self.protect(exchange)
        route.sums.held += 1
        if route.sums.held == 1:
            self.on_held(route)

    def _refusal(self, exchange: Exchange, route: Route, size: int) -> Refusal | None:
        service, of_service = route.service, self._of_service_max
        if not route.holds or exchange.client.now_s() - exchange.began_s >= HOLD_FOR_S:
            return without_replica(service)
        if self._plane.is_leaving:
            return _busy("The data plane is being replaced")
        if route.sums.held >= of_service:
            return _busy(f"Too many requests wait for a replica of the service {service.name}: at most {of_service}")
        if len(self._held) >= self._max:
            return _busy(f"Too many requests wait for replicas: at most {self._max}")
        return self._too_large(size)

    def _too_large(self, size: int) -> Refusal | None:
        if self.size + size <= HELD_BYTES_MAX:
            return None
        return _busy(f"Too large requests wait for replicas: at most {HELD_BYTES_MAX >> 20} MiB together")

    def grow(self, exchange: Exchange, size: int) -> None:
        """Count more of the body of a request that waits. Raises `Refusal` where it is too much."""
        if (refusal := self._too_large(size)) is not None:
            raise refusal
        self.size += size
        self._held[exchange].size += size

    # Out

    def follow(self) -> None:
        """Let those go on whose service has a replica now, or will have none."""
        if not self._held:
            return
        answers: dict[tuple[Route, bool], bool] = {}
        for exchange, held in self._held.items():
            key = held.route, _is_for_model(exchange)
            if key not in answers:
                answers[key] = self._is_due(*key)
            if answers[key]:
                self._due[exchange] = None
        self._go()

    def _is_due(self, route: Route, is_for_model: bool) -> bool:
        service = route.service
        serving: Iterable[Route] = (route,)
        if is_for_model and service.model is not None:
            serving = self._plane.routes.of_model(service.project, service.model.name)
        return not service.starts or any(one.replicas.ready for one in serving)

    def check(self, now_s: float) -> None:
        """Refuse those that have waited for too long."""
        for exchange, held in self._held.items():
            if now_s - exchange.began_s >= HOLD_FOR_S:
                held.route.holds = False  # the next ones get the reason at once, until something changes
                self._due[exchange] = None
        self._go()

    def _go(self) -> None:
        if self._due and (self._going is None or self._going.done()):
            self._going = self._plane.tasks.start("requests that have waited", self._go_on())

    async def _go_on(self) -> None:
        while self._due:
            batch = list(islice(self._due, A_TURN))
            await self._release(batch)
            for exchange in batch:
                if exchange in self._due:  # else its client has left meanwhile
                    self.forget(exchange)
                    if not exchange.is_whole:
                        exchange.client.read_due_s = exchange.client.now_s() + BODY_TIMEOUT_S
                    exchange.go_on()
            await asyncio.sleep(0)

    async def _release(self, batch: Iterable[Exchange]) -> None:
        """Wait until the server no longer keeps these requests: so none of them runs twice."""
        guard, ids = self.guard, [held.id for exchange in batch if (held := self._held[exchange]).id]
        if guard is None or not ids:
            return
        guard.release(ids)
        for exchange in batch:
            self._held[exchange].id = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await guard.released()

    def forget(self, exchange: Exchange) -> None:
        """Let a request no longer wait: it goes on, or ends."""
        self.expose(exchange)
        held = self._held.pop(exchange)
        self._due.pop(exchange, None)
        self.size -= held.size
        held.route.sums.held -= 1
        exchange.is_held = False

    # The end of this data plane

    def guard_by(self, guard: Guard | None) -> None:
        """Let another guard keep what waits; the former one is away, or gets no more messages."""
        self.guard = guard
        for held in self._held.values():
            held.id = 0
        for exchange in self._held:
            if exchange.is_whole:
                self.protect(exchange)

    def protect(self, exchange: Exchange) -> None:
        """Let the guard keep a request that has arrived in full, if it can be repeated."""
        guard, client = self.guard, exchange.client
        if guard is None or exchange in self._due or not _can_move(exchange):
            return
        received, id = _whole(exchange), next(self._ids)
        if len(received) <= KEPT_BYTES_MAX and guard.keep(id, client.transport.get_extra_info("socket"), received):
            self._held[exchange].id = id

    def expose(self, exchange: Exchange) -> None:
        """Let the guard forget a request."""
        held = self._held[exchange]
        id, held.id = held.id, 0
        if id and self.guard is not None:
            self.guard.release([id])

    def leave(self) -> None:
        """Leave those that are whole to the next data plane, and refuse the others: no routes arrive here any more."""
        for exchange, held in list(self._held.items()):
            is_kept, held.id = bool(held.id), 0
            self.forget(exchange)
            client = exchange.client
            if is_kept:
                client.transport.abort()  # this process's descriptor alone: the connection lives on
            elif not (_can_move(exchange) and self._plane.hand_over(client, _whole(exchange))):
                client.refuse(exchange, _busy("The data plane is being replaced"))


def _is_for_model(exchange: Exchange) -> bool:
    return exchange.prefix == MODELS


def _busy(message: str) -> Refusal:
    return Refusal(503, "busy", message, retry_after_s=5)


def _can_move(exchange: Exchange) -> bool:
    """Return whether another process can take a request over: it is whole, and no answer before it is on its way."""
    is_small = exchange.received_bytes <= KEPT_BYTES_MAX
    return exchange.is_whole and is_small and not exchange.client.transport.get_write_buffer_size()


def _head_of(exchange: Exchange) -> bytes:
    """Return the head of a request as the client has sent it, in all that matters."""
    fields = exchange.fields
    lines = [b"%b %b HTTP/1.%d" % (exchange.method, exchange.target, not fields.is_http_1_0)]
    lines += [b": ".join(header) for header in fields.headers]
    return b"\r\n".join((*lines, b"", b""))


def _whole(exchange: Exchange) -> bytes:
    """Return the bytes of a request that is whole, and those that have been read behind it."""
    body = exchange.taken()
    if exchange.fields.is_chunked:
        body = (chunk(body) if body else b"") + last_chunk(exchange.trailers or ())
    return _head_of(exchange) + body + exchange.client.pending
