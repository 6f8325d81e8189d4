"""One request and its answer, between a client's connection and that of a replica."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dstack.proxy.admission import replica_failed
from dstack.proxy.answers import Refusal, Reply
from dstack.proxy.balance import ReplicaState
from dstack.proxy.framing import Headers, chunk, last_chunk
from dstack.proxy.heads import AnswerHead, Request, kept_trailers
from dstack.proxy.replicas import IDLE_MAX_S, ReplicaConnection
from dstack.proxy.routes import Route

if TYPE_CHECKING:
    from dstack.proxy.clients import ClientConnection

CONNECT_TIMEOUT_S = 10.0
REPEATED_BYTES_MAX = 64 << 10
"""A request with a larger body is not sent to a second replica."""
BUFFERED_BYTES_MAX = 64 << 10
"""Of a body before there is a replica for it: then the client has to wait."""
IDLE_CONNECTIONS_MAX = 64
"""To one replica."""
TRIES_MAX = 3

_REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""RFC 9110, 9.2.2: the same effect, however often they arrive."""
_SWITCHING = b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"


class Exchange:
    """One request and its answer."""

    # The defaults are those of the class: few requests change more than some of them.
    # The request
    is_whole = False
    """Whether the request has arrived to its end."""
    received_bytes = 0
    """Of its body, or in the other protocol."""
    is_openai = False
    """Whether a refusal has the form that clients of OpenAI's API expect."""
    trailers: Headers | None = None
    _body: list[bytes] | None = None
    """The body so far, while it may have to be sent (again)."""
    _to_send = b""
    # The way to a replica
    is_held = False
    """Whether it waits for a replica."""
    route: Route | None = None
    _replica: ReplicaState | None = None
    _connection: ReplicaConnection | None = None
    _connecting: asyncio.Task[None] | None = None
    preferred: ReplicaState | None = None
    """The replica that is tried first."""
    _tried: Sequence[ReplicaState] = ()
    _sent_head = b""
    # The answer
    status = 0
    sent_bytes = 0
    """Of its body, or in the other protocol."""
    has_answer = False
    """Whether an answer has begun."""
    _has_interim = False
    """Whether an answer of 1xx has been sent."""
    is_raw = False
    """Whether both sides now speak another protocol."""
    is_done = False
    first_byte_s: float | None = None
    """The time to the first byte of the answer."""
    _answers_chunks = False
    _to_answer = b""
    _ended_sides = 0

    def __init__(self, client: "ClientConnection", request: Request, began_s: float) -> None:
        self.method, self.prefix, self.rest, self.fields = request
        self.is_head = self.method == b"HEAD"
        self.keep_alive = self.fields.keep_alive
        """Whether the client's connection stays after the answer."""
        self._sends_chunks = self.fields.is_chunked
        self.client = client
        self.began_s = began_s

    @property
    def target(self) -> bytes:
        """Return the path with the query, as the client has sent it."""
        return self.prefix + self.rest

    # The request

    def start(self, route: Route, head: bytes) -> None:
        """Send the request to a replica.

        Args:
            head: that of the request, as the replica gets it.
        """
        self.route = route
        self._sent_head = head
        route.sums.begin()
        self._try(route, self.began_s)

    def go_on(self) -> None:
        """Send the request to a replica, for which it has waited."""
        assert self.route is not None
        self._tried = ()
        self._try(self.route, self.client.now_s())

    def take(self, data: bytes) -> None:
        """Take a part of the request's body, or bytes of another protocol. Raises `Refusal`."""
        self.received_bytes += len(data)
        connection = self._connection
        if self.is_raw:
            if connection is not None:
                connection.transport.write(data)
            return
        if connection is None or self.received_bytes <= REPEATED_BYTES_MAX:
            if self._body is None:
                self._body = []
            self._body.append(data)
        if self.is_held:
            self.client.plane.holding.grow(self, len(data))
        if connection is not None:
            self._to_send += chunk(data) if self._sends_chunks else data
        elif self.received_bytes > BUFFERED_BYTES_MAX:
            self.client.pause()

    def take_end(self, trailers: Headers) -> None:
        """Note the end of the request. Raises `Refusal`."""
        self.is_whole = True
        if trailers:
            self.trailers = kept_trailers(trailers)
        if self.is_held:
            self.client.plane.holding.protect(self)
        if self._connection is not None and self._sends_chunks:
            self._to_send += last_chunk(self.trailers or ())

    def taken(self) -> bytes:
        """Return what has arrived of the body, while it waits for a replica."""
        return b"".join(self._body or ())

    def send(self) -> None:
        """Send the replica what has been taken."""
        data = self._to_send
        if data and self._connection is not None:
            self._to_send = b""
            self._connection.transport.write(data)

    def client_ended(self) -> None:
        """Note that the client sends no more in the other protocol."""
        if self._connection is not None and self._connection.transport.can_write_eof():
            self._connection.transport.write_eof()
        self._side_ended()

    def client_lost(self) -> None:
        """Forget the request: its answer has no reader."""
        self._leave_replica(free=False)
        self.close(is_error=False)

    def pause_replica(self) -> None:
        """Read no more of the answer for now."""
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume_replica(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.transport.resume_reading()

    # The way to a replica

    def _try(self, route: Route, now_s: float) -> None:
        replica = self.preferred
        if replica is None or replica in self._tried or not replica.is_ready:
            replica = route.replicas.least(now_s, self._tried)
            if replica is None:
                self.client.plane.holding.hold(self, route)
                return
        self._replica = replica
        replica.outstanding += 1
        idle = replica.idle
        while idle:
            connection = idle.pop()
            if not connection.is_broken and now_s - connection.idle_since_s < IDLE_MAX_S:
                self._use(connection)
                return
            connection.close()
        self._connecting = self.client.plane.tasks.start("connect to a replica", self._connect(replica))

    async def _connect(self, replica: ReplicaState) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await self.client.plane.connect(replica.replica.target)
        except (OSError, TimeoutError) as error:
            self._connecting = None
            self.client.plane.is_down(replica, str(error) or "it did not answer in time")
            self._leave_replica(free=False)
            self._try_another(replica, "it cannot be reached")
            return
        self._connecting = None
        self.client.plane.is_up(replica)
        self._use(connection)

    def _use(self, connection: ReplicaConnection) -> None:
        self._connection = connection
        connection.answering = self
        request = self._sent_head
        if self._body:
            body = b"".join(self._body)
            request += chunk(body) if self._sends_chunks and body else body
        if self._sends_chunks and self.is_whole:
            request += last_chunk(self.trailers or ())
        connection.transport.write(request)
        if not self.is_whole:
            self.client.resume()
        if self.client.is_full:
            connection.transport.pause_reading()

    def _try_another(self, failed: ReplicaState, reason: str) -> None:
        self._tried = (*self._tried, failed)
        route = self.route
        if route is not None and len(self._tried) < TRIES_MAX and route.can_take(self._tried):
            self._try(route, self.client.now_s())
            return
        self._refuse(replica_failed("" if route is None else route.service.name, failed.replica, reason))

    def _leave_replica(self, free: bool, now_s: float = 0.0) -> None:
        """Leave the replica, and keep its connection for others where it is free."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        connection, self._connection = self._connection, None
        replica, self._replica = self._replica, None
        if replica is None:
            if self.is_held:
                self.client.plane.holding.forget(self)
            return
        replica.outstanding -= 1
        if connection is not None:
            if free and not connection.is_broken and replica.is_ready and len(replica.idle) < IDLE_CONNECTIONS_MAX:
                if self.client.is_full:
                    connection.transport.resume_reading()
                connection.idle_since_s = now_s
                connection.is_reused = True
                replica.idle.append(connection)
            else:
                connection.close()
        if replica.is_draining:
            self.client.plane.left(replica)

    # The answer, as a `ReplicaConnection` reports it

    def interim(self, head: AnswerHead) -> None:
        if not self.fields.is_http_1_0:
            self._has_interim = True
            self._to_answer += head.whole

    def switched(self, head: AnswerHead) -> bool:
        if not self.fields.is_upgrade:
            return False
        self.status = 101
        self.is_raw = self.has_answer = True
        self.keep_alive = False
        self.first_byte_s = self.client.now_s() - self.began_s
        self._to_answer += head.lines + _SWITCHING
        self.client.switch()
        return True

    def head(self, head: AnswerHead) -> None:
        self.status = head.status
        self.has_answer = True
        self._body = None
        self.first_byte_s = self.client.now_s() - self.began_s
        self._answers_chunks = head.sends_chunks and not self.is_head
        if not self.is_whole or self.fields.is_upgrade or self.client.plane.is_leaving:
            self.keep_alive = False
        if self.keep_alive and not self.fields.is_http_1_0:
            self._to_answer += head.whole
        else:
            self._to_answer += self._own_head(head)

    def _own_head(self, head: AnswerHead) -> bytes:
        """Return the head of an answer whose connection closes, or whose client speaks HTTP/1.0."""
        framing = head.framing_line
        if self.fields.is_http_1_0 and (self._answers_chunks or framing.startswith(b"transfer")):
            framing, self._answers_chunks, self.keep_alive = b"", False, False
        return b"".join((head.lines, framing, self.fields.persistence(self.keep_alive), b"\r\n"))

    def body(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        if self._answers_chunks:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._to_answer = self._to_answer + data if self._to_answer else data

    def end(self, trailers: Sequence[tuple[bytes, bytes]]) -> None:
        if self._answers_chunks:
            self._to_answer += last_chunk(kept_trailers(list(trailers)) if trailers else ())
        client = self.client
        if self._to_answer:
            client.transport.write(self._to_answer)
            self._to_answer = b""
        now_s = client.now_s()
        self._leave_replica(self.is_whole and not self.is_raw, now_s)
        self.close(self.status >= 500, now_s)
        client.finished(self, now_s)

    def whole(self, head: AnswerHead, body: bytes) -> None:
        client = self.client
        if not self.keep_alive or not self.is_whole or self.fields.is_http_1_0 or client.plane.is_leaving:
            self.head(head)
            self.body(body)
            self.end(())
            return
        client.transport.write(self._to_answer + head.whole + body)
        self.status = head.status
        self.sent_bytes = len(body)
        self.has_answer = True
        now_s = client.now_s()
        self.first_byte_s = now_s - self.began_s
        self._leave_replica(True, now_s)
        self.close(head.status >= 500, now_s)
        client.finished(self, now_s)

    def flush(self) -> None:
        data = self._to_answer
        if data:
            self._to_answer = b""
            self.client.transport.write(data)

    def lost(self, reason: str) -> None:
        replica, connection, route = self._replica, self._connection, self.route
        assert replica is not None
        assert connection is not None
        assert route is not None
        was_reused = connection.is_reused
        self._leave_replica(free=False)
        if self.has_answer:  # a cut is the only way to report that the rest of the answer is missing
            self.flush()
            self.close(is_error=True)
            self.client.cut()
        elif not self._may_repeat():
            self._tried = [replica] * TRIES_MAX
            self._try_another(replica, f"{reason}, and may have done what was asked")
        elif was_reused:  # it may have closed an idle connection at this very moment
            self._try(route, self.client.now_s())
        else:
            self._try_another(replica, reason)

    def _may_repeat(self) -> bool:
        is_small = self._body is None or self.received_bytes <= REPEATED_BYTES_MAX
        return self.method in _REPEATABLE and is_small and not self.fields.is_upgrade and not self._has_interim

    def ended(self) -> None:
        self.flush()
        self.client.write_eof()
        self._side_ended()

    def _side_ended(self) -> None:
        """Note that one side sends no more in the other protocol; end with the second."""
        self._ended_sides += 1
        if self._ended_sides == 2 and not self.is_done:
            self.end(())

    def pause(self) -> None:
        self.client.pause()

    def resume(self) -> None:
        self.client.resume()

    # The end

    def _refuse(self, refusal: Refusal) -> None:
        self.client.refuse(self, refusal)

    def replied(self, reply: Reply) -> None:
        """Note an answer that needs no replica."""
        self.status = reply.status
        self.has_answer = True
        self.sent_bytes = len(reply.body)
        self._leave_replica(free=False)
        self.close(is_error=reply.status >= 500)

    def close(self, is_error: bool, now_s: float | None = None) -> None:
        """Count the request, once."""
        if self.is_done:
            return
        self.is_done = True
        self._body = None
        route = self.route
        if route is not None:
            if now_s is None:
                now_s = self.client.now_s()
            if self.first_byte_s is None and self.status:
                self.first_byte_s = now_s - self.began_s
            route.sums.end(is_error, self.first_byte_s)
            on_answer = self.client.plane.on_answer
            if on_answer is not None:
                on_answer(self, route, now_s)
