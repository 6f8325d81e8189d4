"""Requests to models: the body is collected before a replica is chosen, because it names the model."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dstack.proxy.admission import MODELS, admit_to_models, forwarded
from dstack.proxy.answers import Refusal, Reply
from dstack.proxy.balance import ReplicaState
from dstack.proxy.choices import Choice, Rewriting
from dstack.proxy.exchanges import TRIES_MAX, Exchange
from dstack.proxy.framing import Headers
from dstack.proxy.heads import AUTHORIZATION, AnswerHead
from dstack.proxy.replicas import ReplicaConnection
from dstack.proxy.routes import Route

BODY_BYTES_MAX = 32 << 20
"""Of one request."""
COLLECTED_BYTES_MAX = 256 << 20
"""Of all bodies that are collected, or wait for a replica to take them."""
PART_BYTES = 128 << 10
"""A larger body is sent in parts of this size, as the replica takes them: no copy is made of it."""
PARTS_A_TURN = 8
"""Of one body; then others have their turn."""


class ModelExchange(Exchange):
    """One request to a model, and its answer."""

    is_openai = True
    project = ""
    """The project that the request names."""
    is_member = False
    """Whether the caller has shown a token of the project; else only models without `auth` are open."""
    collected: bytes | bytearray = b""
    """The body: the client's, then the replica's. A body that has been sent is forgotten, since it is not repeated."""
    _asked: bytes | bytearray | None = None
    """The client's body, where the replica gets another one."""
    _is_collecting = False
    _counted_bytes = 0
    _sent_bytes = 0
    """Of the body."""
    _is_stalled = False
    """Whether the replica takes no more for now."""
    _choosing: asyncio.Task[None] | None = None
    _rewriting: Rewriting | None = None
    _held: AnswerHead | None = None
    """The head of a replica's answer, while its body is read first."""
    _others: tuple[Choice, ...] = ()

    def admit(self) -> None:
        """Wait for the body, and choose a replica by it. Raises `Refusal`."""
        plane = self.client.plane
        if plane.choose_model is None:
            raise Refusal(404, "not_found", "This data plane serves no models")
        self.project, self.is_member = admit_to_models(plane.routes, self.rest, self.fields, plane.is_server_away)
        self._is_collecting = True
        self._count(self.received_bytes)
        if self.is_whole:
            self._choose()
        elif self.fields.expects_continue:
            self.client.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take(self, data: bytes) -> None:
        self.received_bytes += len(data)
        collected = self.collected or bytearray()
        collected += data
        self.collected = collected
        if self._is_collecting:
            self._count(len(data))

    def take_end(self, trailers: Headers) -> None:
        self.is_whole = True
        if self._is_collecting:
            self._choose()

    def _count(self, size: int) -> None:
        """Count bytes that are collected. Raises `Refusal` where they are too many."""
        if max(self.received_bytes, self.fields.length) > BODY_BYTES_MAX:
            message = f"The body of the request is too large: at most {BODY_BYTES_MAX >> 20} MiB are taken"
            raise Refusal(413, "too_large", message)
        self.client.plane.collected_bytes += size
        self._counted_bytes += size
        if self.client.plane.collected_bytes > COLLECTED_BYTES_MAX:
            raise Refusal(503, "busy", "Too many large requests arrive at this moment", retry_after_s=2)

    def _choose(self) -> None:
        plane = self.client.plane
        assert plane.choose_model is not None
        choice = plane.choose_model(self)
        if isinstance(choice, Choice | Reply):
            self._follow(choice)
        else:
            self._choosing = plane.tasks.start("choose a replica of a model", self._choose_later(choice))

    async def _choose_later(self, choice: Awaitable[Choice | Reply]) -> None:
        try:
            self._follow(await choice)
        except Refusal as refusal:
            self.client.refuse(self, refusal)
        except Exception:
            self.client.refuse(self, Refusal(500, "internal_error", "The choice of a replica failed"))
            raise  # the log has the reason

    def _follow(self, choice: Choice | Reply) -> None:
        if isinstance(choice, Reply):
            self.client.reply(self, choice)
            return
        body = self.collected if choice.body is None else choice.body
        framing = b"content-length: %d\r\n" % len(body) if body or self.fields.has_body else b""
        token, routes = self.fields.authorization, self.client.plane.routes
        is_ours = token is not None and (self.is_member or routes.projects_of(token) is not None)
        dropped = [b"expect", b"trailer", *([AUTHORIZATION] if is_ours else [])]
        if choice.rewriting is not None:
            dropped.append(b"accept-encoding")
        lines = self.fields.lines_with(framing, dropped) + forwarded(self.client.address, self.fields, MODELS)
        self._is_collecting = False
        self._asked = self.collected if choice.body is not None else None
        self.collected, self._sent_bytes = body, 0
        if len(body) <= PART_BYTES:  # with the head
            self._body, self._sent_bytes = [bytes(body)], len(body)
        self.preferred = choice.replica
        self._rewriting = choice.rewriting
        self._others = choice.others
        self._sends_chunks = False
        self.start(choice.route, b"%b %b HTTP/1.1\r\n%b" % (self.method, choice.target, lines))

    def start(self, route: Route, head: bytes) -> None:
        waited_for = self.route
        if waited_for is None:
            super().start(route, head)
            return
        if waited_for is not route:  # another service of the model
            waited_for.sums.end(False, None)
            route.sums.begin()
        self.route, self._sent_head = route, head
        self._try(route, self.client.now_s())

    def go_on(self) -> None:
        if self._asked is not None:
            self.collected = self._asked
        self._tried = ()
        try:
            self._choose()
        except Refusal as refusal:
            self.client.refuse(self, refusal)

    def taken(self) -> bytes:
        return bytes(self.collected if self._asked is None else self._asked)

    def _use(self, connection: ReplicaConnection) -> None:
        super()._use(connection)
        self._body = None
        self._send_on()

    def _send_on(self) -> None:
        """Send as much of the body as the replica takes for now."""
        connection, body = self._connection, self.collected
        for _ in range(PARTS_A_TURN):
            if connection is None or self._is_stalled or self._sent_bytes >= len(body):
                break
            part = bytes(memoryview(body)[self._sent_bytes : self._sent_bytes + PART_BYTES])
            self._sent_bytes += len(part)
            connection.transport.write(part)
        if connection is None or self._is_stalled:
            return
        if self._sent_bytes < len(body):
            self.client.plane.soon(self._send_on)
        else:
            self._forget()

    def _forget(self) -> None:
        """Forget the body."""
        self.collected, self._asked, self._sent_bytes = b"", None, 0
        self.client.plane.collected_bytes -= self._counted_bytes
        self._counted_bytes = 0

    def pause(self) -> None:
        self._is_stalled = True
        super().pause()

    def resume(self) -> None:
        self._is_stalled = False
        super().resume()
        self._send_on()

    def _leave_replica(self, free: bool, now_s: float = 0.0) -> None:
        super()._leave_replica(free and self._sent_bytes >= len(self.collected), now_s)

    def client_lost(self) -> None:
        if self._choosing is not None:
            self._choosing.cancel()
        super().client_lost()

    def _try_another(self, failed: ReplicaState, reason: str) -> None:
        tried, route = (*self._tried, failed), self.route
        if route is None or not self._others or len(tried) >= TRIES_MAX or route.replicas.least(0, tried) is not None:
            super()._try_another(failed, reason)
            return
        self._tried = tried
        route.sums.end(True, None)
        self.route = None
        other, *others = self._others
        self._follow(other._replace(others=tuple(others)))

    def head(self, head: AnswerHead) -> None:
        rewriting = self._rewriting
        if rewriting is None:
            super().head(head)
        elif rewriting.is_whole and self._held is None:
            self._held = head
        else:
            status, media_type = rewriting.head(head.status, head.headers)
            super().head(AnswerHead(status, [(b"Content-Type", media_type)], is_http_1_0=False))

    def body(self, data: bytes) -> None:
        if self._rewriting is not None:
            data = self._rewriting.body(data)
        if data:
            super().body(data)

    def end(self, trailers: Sequence[tuple[bytes, bytes]]) -> None:
        if self._held is not None:
            self.head(self._held)
        if self._rewriting is not None and (rest := self._rewriting.end()):
            super().body(rest)
        super().end(trailers)

    def whole(self, head: AnswerHead, body: bytes) -> None:
        self.head(head)
        self.body(body)
        self.end(())

    def close(self, is_error: bool, now_s: float | None = None) -> None:
        self._forget()
        super().close(is_error, now_s)


Choose = Callable[[ModelExchange], Choice | Reply | Awaitable[Choice | Reply]]
"""Chooses where a request to a model goes. Raises `Refusal`."""
