"""Connections of clients: requests in, answers out, one after the other."""

import asyncio
import socket
from typing import TYPE_CHECKING

from dstack.protocol.proxy import is_for_data_plane
from dstack.proxy.admission import MODELS
from dstack.proxy.answers import Refusal, Reply, answer_of, reply_of
from dstack.proxy.collecting import ModelExchange
from dstack.proxy.exchanges import Exchange
from dstack.proxy.framing import Chunked, FramingError
from dstack.proxy.heads import HEAD_BYTES_MAX, REMEMBERED_BYTES_MAX, Request, RequestFields
from dstack.proxy.routes import Route

if TYPE_CHECKING:
    from dstack.proxy.plane import DataPlane

PENDING_BYTES_MAX = 64 << 10
"""Of requests that wait behind another; then the client is read no more."""
REQUESTS_A_TURN = 32
"""Requests of one connection that are answered before other connections have their turn."""
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 75.0
BODY_TIMEOUT_S = 60.0
"""The time for the next `BODY_PART_BYTES` of a body that has not arrived in full."""
BODY_PART_BYTES = 1024
STALL_TIMEOUT_S = 300.0
"""The time for which a client may take nothing of its answer."""
LINGER_S = 1.0
"""The time for which a refused client is read, so that it receives the reason before the connection ends."""


class ClientConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_chunked", "_exchange", "_has_start", "_is_advancing", "_is_held", "_is_paused", "_is_refused",
        "_last_head", "_last_request", "_left", "_part_bytes", "_taken_bytes", "_write_due_s", "address",
        "forwarded", "forwarded_for", "is_full", "now_s", "pending", "plane", "read_due_s", "transport",
    )  # fmt: skip
    transport: asyncio.Transport
    _last_request: Request

    def __init__(self, plane: "DataPlane") -> None:
        self.plane = plane
        self.now_s = plane.now_s
        # The connection
        self.address = b""
        self.is_full = False
        """Whether the client has to read before more of an answer is taken."""
        self.forwarded_for: tuple[RequestFields, Route, bool] | None = None
        self.forwarded = b""
        """The last headers that went on, and those they were made of: most clients send the same ones again."""
        self._last_head = b""
        """The last head that came alone, and what it means: many clients send the same one again and again."""
        self.pending = b""
        """Bytes of requests that have not begun."""
        self._has_start = False
        """Whether they are the start of a head."""
        self._is_advancing = False
        self._is_paused = False
        """Whether the client is not read because the replica takes no more."""
        self._is_held = False
        """Whether the client is not read because enough of its requests wait."""
        self._is_refused = False
        """Whether the client is only read to its end."""
        self.read_due_s = self._write_due_s = 0.0
        self._taken_bytes = 0
        """Of the answer, as far as the client had taken it when it was checked last."""
        # The request that arrives, or is answered
        self._exchange: Exchange | None = None
        self._left = 0
        """Bytes of its body that are missing; 1 where they come in chunks."""
        self._chunked: Chunked | None = None
        self._part_bytes = 0

    # Reports of asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self.transport = transport
        name = transport.get_extra_info("peername")
        self.address = str(name[0]).encode() if isinstance(name, tuple) and name else b""
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:  # a client that has vanished ends its quiet stream
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        now_s = self.now_s()
        self.read_due_s, self._write_due_s = now_s + HEAD_TIMEOUT_S, now_s + STALL_TIMEOUT_S
        self.plane.enter(self)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            if not self._is_refused:
                self.pending = self.pending + data if self.pending else data
                self._advance()
        elif self._left:
            self._take_body(exchange, data)
            if self.pending:
                self._advance()
        elif exchange.is_raw:
            exchange.take(data)
        else:
            self.pending += data
            if exchange.is_held:
                self.plane.holding.expose(exchange)  # the server has the bytes before these
            if len(self.pending) > PENDING_BYTES_MAX or exchange.fields.is_upgrade:
                self._hold()

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is not None and exchange.is_raw:
            exchange.client_ended()
            return not exchange.is_done
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.plane.exit(self)
        exchange, self._exchange = self._exchange, None
        self.pending, self._is_refused = b"", True
        if exchange is not None:
            exchange.client_lost()

    def pause_writing(self) -> None:
        self.is_full = True
        if self._exchange is not None:
            self._exchange.pause_replica()

    def resume_writing(self) -> None:
        self.is_full = False
        if self._exchange is not None:
            self._exchange.resume_replica()
        elif self.pending:
            self._advance()

    # Requests

    def _advance(self) -> None:
        """Begin the requests that have arrived, one after the other."""
        if self._is_advancing:  # an answer that needed no replica: the loop below goes on
            return
        self._is_advancing = True
        begun = 0
        while self.pending and self._exchange is None and not self._is_refused and not self.is_full:
            if begun == REQUESTS_A_TURN:
                self.plane.soon(self._advance)
                break
            begun += 1
            try:
                if not self._begin(self.pending):
                    break
            except Refusal as refusal:
                self._refuse_connection(refusal)
        self._is_advancing = False
        if len(self.pending) > PENDING_BYTES_MAX:
            self._hold()
        elif self._is_held and not self.is_full:
            self._is_held = False
            self._read_on()

    def _begin(self, data: bytes) -> bool:
        """Begin a request; return False where more of its head has to arrive. Raises `Refusal`."""
        rest = b""
        if data == self._last_head:
            request = self._last_request
        else:
            read = self._read_head(data)
            if read is None:
                return False
            request, rest = read
        now_s = self.now_s()
        make = ModelExchange if request[1] == MODELS else Exchange
        exchange = self._exchange = make(self, request, now_s)
        fields = exchange.fields
        self.read_due_s = 0.0
        self._has_start = False
        if fields.has_body:
            self._begin_body(fields, now_s)
            self._take_body(exchange, rest)
        else:
            self.pending = rest
            exchange.is_whole = True
        if self._exchange is exchange and not exchange.is_done:
            try:
                self.plane.admit(self, exchange)
            except Refusal as refusal:
                self.refuse(exchange, refusal)
        return True

    def _read_head(self, data: bytes) -> tuple[Request, bytes] | None:
        """Read a head; return it and the bytes behind it, or None where more of it has to arrive. Raises `Refusal`."""
        if not data.startswith((b"GET /proxy/", b"POST /proxy/")):
            while data.startswith(b"\r\n"):  # an empty line before a request means nothing (RFC 9112, 2.2)
                data = data[2:]
            self.pending = data
            if not data or not self._is_for_us(data):
                return None
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or end > HEAD_BYTES_MAX:
            self._wait_for_head(data)
            return None
        request = self.plane.heads.request(data, end)
        if len(data) > end:
            return request, data[end:]
        if end <= REMEMBERED_BYTES_MAX:
            self._last_head, self._last_request = data, request
        return request, b""

    def _is_for_us(self, data: bytes) -> bool:
        """Return whether a request goes on here. Else the connection is given away, or more has to arrive."""
        is_ours = is_for_data_plane(data)
        if is_ours is None:
            self._wait_for_head(data)
        elif not is_ours and self.transport.get_write_buffer_size():  # the end of an answer has to leave first
            self._hold()
            self.transport.set_write_buffer_limits(0)
        elif not is_ours:
            self.pending, self._is_refused, self._is_held = b"", True, False
            self.plane.give(self, data)
        return bool(is_ours)

    def _wait_for_head(self, data: bytes) -> None:
        """Keep the start of a head. Raises `Refusal`."""
        if len(data) > HEAD_BYTES_MAX:
            message = f"The head of the request is too large: at most {HEAD_BYTES_MAX} bytes are taken"
            raise Refusal(431, "invalid_request", message)
        if b"\n\n" in data:
            raise Refusal(400, "invalid_request", "A line of the request does not end with CR LF")
        if not self._has_start:
            self._has_start = True
            self.read_due_s = self.now_s() + HEAD_TIMEOUT_S
        self.pending = data

    def _begin_body(self, fields: RequestFields, now_s: float) -> None:
        self._left = fields.length or 1
        self._chunked = Chunked() if fields.is_chunked else None
        self._part_bytes = 0
        self.read_due_s = now_s + BODY_TIMEOUT_S

    def _take_body(self, exchange: Exchange, data: bytes) -> None:
        """Take a part of the body; the bytes behind its end wait."""
        trailers = []
        try:
            if self._chunked is None:
                rest = data[self._left :] if len(data) > self._left else b""
                if rest:
                    data = data[: self._left]
                self._left -= len(data)
            else:
                data, ended = self._chunked.feed(data)
                rest = ended or b""
                if ended is not None:
                    trailers, self._chunked, self._left = self._chunked.trailers, None, 0
            self.pending = rest
            if data:
                self._note_part(len(data))
                exchange.take(data)
            if not self._left:
                self.read_due_s = 0.0
                exchange.take_end(trailers)
            exchange.send()
        except FramingError as error:
            message = f"The framing of the request's body is wrong: {error}"
            self._refuse_connection(Refusal(400, "invalid_request", message))
        except Refusal as refusal:
            self.refuse(exchange, refusal)

    def _note_part(self, size: int) -> None:
        self._part_bytes += size
        if self._part_bytes >= BODY_PART_BYTES:
            self._part_bytes = 0
            self.read_due_s = self.now_s() + BODY_TIMEOUT_S

    # Calls of exchanges

    def switch(self) -> None:
        """Go on in the other protocol."""
        data, self.pending = self.pending, b""
        self._is_held = False
        self._read_on()
        if data and self._exchange is not None:
            self._exchange.take(data)

    def _hold(self) -> None:
        if not self._is_held:
            self._is_held = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if not self._is_held and not self._is_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def pause(self) -> None:
        """Read no more of the request for now."""
        self._is_paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._is_paused:
            self._is_paused = False
            if self._left:
                self.read_due_s = self.now_s() + BODY_TIMEOUT_S
            self._read_on()

    def write_eof(self) -> None:
        """Send no more in the other protocol."""
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def cut(self) -> None:
        """End the connection in the middle of an answer."""
        self._exchange = None
        self._is_refused = True
        self.transport.abort()

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer a request with the reason why it goes no further."""
        if not exchange.is_whole or exchange.fields.is_upgrade:
            exchange.keep_alive = False
        self.reply(exchange, reply_of(refusal, exchange.is_openai))

    def reply(self, exchange: Exchange, reply: Reply) -> None:
        """Give an answer that needs no replica."""
        if self.plane.is_leaving:
            exchange.keep_alive = False
        exchange.replied(reply)
        self.transport.write(answer_of(reply, exchange.fields.persistence(exchange.keep_alive), not exchange.is_head))
        self.finished(exchange, self.now_s())

    def finished(self, exchange: Exchange, now_s: float) -> None:
        """Go on behind an answer that is complete: with the next request, or with the end of the connection."""
        if exchange is not self._exchange:
            return
        self._exchange = None
        if not exchange.keep_alive or self.plane.is_leaving:
            self._linger()
            return
        self.read_due_s = now_s + IDLE_TIMEOUT_S
        if self._is_paused:
            self.resume()
        if self.pending:
            self._advance()

    def _refuse_connection(self, refusal: Refusal) -> None:
        """Answer with the reason if no answer has begun, and disconnect."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.has_answer:
            exchange.client_lost()
            self.cut()
            return
        reply = reply_of(refusal, exchange is not None and exchange.is_openai)
        if exchange is not None:
            exchange.replied(reply)
        self.transport.write(answer_of(reply, with_body=exchange is None or not exchange.is_head))
        self._linger()

    def _linger(self) -> None:
        """End the connection once the client has had time to read the answer."""
        self._is_refused = True
        self._is_paused = self._is_held = False
        self.pending = b""
        self.write_eof()
        self._read_on()
        self.read_due_s = self.now_s() + LINGER_S

    def check(self, now_s: float) -> None:
        """End the connection where the client was too slow."""
        if self._is_taking(now_s):
            if now_s >= self._write_due_s:
                self.transport.abort()
        elif not self.read_due_s or now_s < self.read_due_s or self._is_paused:
            return
        elif self._is_refused or (self._exchange is None and not self.pending):
            self.transport.abort()
        else:
            self._refuse_connection(Refusal(408, "timeout", "The request did not arrive in time"))

    def _is_taking(self, now_s: float) -> bool:
        """Return whether an answer is on its way to the client. Each part that the client takes gives it more time."""
        buffered = self.transport.get_write_buffer_size()
        taken = (0 if self._exchange is None else self._exchange.sent_bytes) - buffered
        if not buffered or taken > self._taken_bytes:
            self._write_due_s = now_s + STALL_TIMEOUT_S
        self._taken_bytes = taken
        return buffered > 0

    def leave(self) -> None:
        """Go to the server, or end behind the last answer; stay while a request is under way."""
        if self._exchange is not None:
            return
        is_free = not self._is_refused and not self.transport.get_write_buffer_size()
        data, self.pending, self._is_refused = self.pending, b"", True
        if not is_free or not self.plane.hand_over(self, data):
            self.transport.close()

    @property
    def is_idle(self) -> bool:
        """Return whether it has neither a request under way nor the end of an answer."""
        return self._exchange is None and not self.transport.get_write_buffer_size()
