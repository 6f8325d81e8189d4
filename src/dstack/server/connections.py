"""Limits of connections: their number, their origin, and the size and duration of their requests.

All limits apply before HTTP is parsed, since a new client has shown no token yet. Clients that only hold connections
open do not shut out others: above the limit, the connection that has waited longest for its request is closed.
"""

import asyncio
import resource
import socket
from collections import defaultdict
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeAlias

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from dstack.errors import InvalidRequestError, ServerError
from dstack.protocol.proxy import HELD_MAX, is_for_data_plane
from dstack.protocol.wire import encoded
from dstack.server.http.problems import MEDIA_TYPE, RETRY_AFTER_S, problem_of

HEAD_BYTES_MAX = 64 << 10
"""Of one request: its first line and its headers, or what comes between the parts of its body."""
HEADERS_MAX = 100
HEAD_TIMEOUT_S = 10.0
"""From the connection, or from the first byte of a later request, to the end of its headers."""
BODY_TIMEOUT_S = 120.0
"""From there to the end of its body, or to the next `BODY_PART_BYTES` of it: a slow line may take its time."""
BODY_PART_BYTES = 64 << 10
IDLE_TIMEOUT_S = 75
"""Between two requests."""
LINGER_S = 1.0
"""How long a refused client is still listened to, so that it reads why before the connection breaks."""

Give: TypeAlias = Callable[[socket.socket, bytes], bool]
"""Hands over a connection with the first bytes of its next request; returns False where that is not possible."""

CONNECTIONS_MAX = 8192
DESCRIPTORS_KEPT = 256 + HELD_MAX
"""For the database, logs, uploads and links to agents, and for requests that wait in the data plane."""
WAITING_MAX = 1024
"""How many connections of one address may be without a request under way. All programs of one machine have one
address, and each may keep some connections for its next requests."""


def connections_max() -> int:
    """Return how many connections this process can hold beside the files that it needs."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(CONNECTIONS_MAX, descriptors - DESCRIPTORS_KEPT))


class Lobby:
    """All connections of a server, and which of them have no request under way."""

    def __init__(
        self, connections_max: int = CONNECTIONS_MAX, waiting_max: int = WAITING_MAX, give: Give | None = None
    ) -> None:
        """Args: `give`: hands a connection over to the data plane."""
        self.give = give
        self._connections_max = connections_max
        self._waiting_max = waiting_max
        self._count = 0
        self._waiting: dict[Connection, None] = {}
        """Those without a request under way, in the order in which they began to wait."""
        self._waiting_of: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        """The same by address."""

    def enter(self, connection: "Connection") -> bool:
        """Take a connection in; returns False where there is no room, not even by sending another one away."""
        self._count += 1
        self.wait(connection)
        if self._count <= self._connections_max:
            return True
        oldest = next(iter(self._waiting))
        if oldest is connection:
            return False
        self._dismiss(oldest)
        return True

    def wait(self, connection: "Connection") -> None:
        """Note that the connection waits for a request. The one of its address that waits longest may have to leave."""
        of_address = self._waiting_of[connection.address]
        of_address[connection] = self._waiting[connection] = None
        if len(of_address) > self._waiting_max:
            self._dismiss(next(iter(of_address)))

    def _dismiss(self, connection: "Connection") -> None:
        self.serve(connection)  # its end is recorded later; until then it must not be dismissed again
        connection.leave()

    def serve(self, connection: "Connection") -> None:
        """Note that a request of the connection is under way."""
        if connection in self._waiting:
            del self._waiting[connection]
            of_address = self._waiting_of[connection.address]
            del of_address[connection]
            if not of_address:
                del self._waiting_of[connection.address]

    def exit(self, connection: "Connection") -> None:
        """Forget a connection that is lost."""
        self._count -= 1
        self.serve(connection)


class Connection(HttpToolsProtocol):
    """One connection: uvicorn's, with bounds."""

    lobby: Lobby
    """Of the server that takes it: see `connections_of`."""
    address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Accept the connection, and start the time for its request."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._refused = False
        self._is_whole = True
        """Whether the last request has arrived to its end, or none has begun."""
        self._has_head = False
        self._bare_bytes = 0
        """The bytes since the last part of a body, or since the request began."""
        self._part_bytes = 0
        """Of the body, since the timer was set."""
        self._answering: RequestResponseCycle | None = None
        """The request that is answered, or was last; `cycle` is the last that came, which may wait behind it."""
        self._timer: asyncio.TimerHandle | None = None
        self._expect(HEAD_TIMEOUT_S)
        if not self.lobby.enter(self):
            self._refuse(503, "The server has as many connections as it can hold; try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._expect(None)
        self.lobby.exit(self)
        self._end_answer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, no more of a head at a time than one may have."""
        if self._is_between() and is_for_data_plane(data) and self._hand_over(data):
            return
        while data and not self._refused and not self.transport.is_closing():
            room = len(data) if self._has_head else HEAD_BYTES_MAX - self._bare_bytes + 1
            part, data = data[:room], data[room:]
            self._bare_bytes += len(part)
            super().data_received(part)
            if self._bare_bytes > HEAD_BYTES_MAX:
                self._refuse(431, f"The head of the request is too large: at most {HEAD_BYTES_MAX} bytes are taken")
        if not self._refused:
            self._look_at_the_time()

    def _is_between(self) -> bool:
        """Return whether the next byte begins a request, and no answer is under way."""
        return self._is_whole and not self._is_under_way() and not self._refused

    def _hand_over(self, data: bytes) -> bool:
        """Hand the connection over to the data plane; return False where this is impossible."""
        give, is_sent = self.lobby.give, not self.transport.get_write_buffer_size()  # else an answer would lose its end
        if give is None or not is_sent or not give(self.transport.get_extra_info("socket"), data):
            return False
        self._refused = True
        self._expect(None)
        self.transport.abort()  # this process's descriptor alone: the connection lives on
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_whole = self._has_head = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind the body."""
        if len(self.headers) >= HEADERS_MAX:
            self._refuse(431, f"The request has too many headers: at most {HEADERS_MAX} are taken")
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of the request is there: it is under way."""
        if self._refused:
            return
        self._has_head = True
        self._bare_bytes = 0
        self.lobby.serve(self)
        super().on_headers_complete()
        if not self.pipeline:
            self._answering = self.cycle

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._bare_bytes = 0
        self._part_bytes += len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there to its end."""
        self._is_whole = True
        self._has_head = False
        self._bare_bytes = 0
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent; where the next request is there already, that one is under way."""
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if following is not None:
            self._answering = following
        elif not self.transport.is_closing():
            self.lobby.wait(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP."""
        self._refuse(400, "This is not an HTTP request")

    def leave(self) -> None:
        """Make room for another connection."""
        self._expect(None)
        self.transport.abort()

    def _look_at_the_time(self) -> None:
        """Give an unfinished request a while for its next part: its head, then its body."""
        if self._is_whole and self._is_under_way():
            self._expect(None)
        elif self._timer is None or self._has_head is not self._timed_body:
            self._expect_more()

    def _is_under_way(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _expect_more(self) -> None:
        self._expect(BODY_TIMEOUT_S if self._has_head else HEAD_TIMEOUT_S)

    def _expect(self, timeout_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timed_body = self._has_head
        self._part_bytes = 0
        self._timer = None if timeout_s is None else self.loop.call_later(timeout_s, self._late)

    def _late(self) -> None:
        has_come = self._has_head and self._part_bytes >= BODY_PART_BYTES
        if self._is_under_way() and (has_come or self.flow.read_paused):
            self._expect_more()
        else:
            self._refuse(408, "The request did not arrive in time")

    def _refuse(self, status: int, message: str) -> None:
        """Answer with the reason if no answer has begun, and disconnect."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._expect(None)
        has_begun = self._answering is not None and self._is_under_way() and self._answering.response_started
        self._end_answer()
        if not has_begun:
            self.transport.write(_answer(status, message))
        self.flow.resume_reading()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _end_answer(self) -> None:
        """Notify the request that its client has disconnected."""
        if self._answering is not None and self._is_under_way():
            self._answering.disconnected = True
            self._answering.message_event.set()


def _answer(status: int, message: str) -> bytes:
    error = ServerError(message) if status >= 500 else InvalidRequestError(message)
    body = encoded(problem_of(error, status))
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    )
    later = f"retry-after: {RETRY_AFTER_S}\r\n" if status == 503 else ""
    return f"{head}{later}\r\n".encode() + body


def connections_of(lobby: Lobby) -> type[Connection]:
    """Return the protocol for the connections of one server, as uvicorn asks for it."""
    return type("ConnectionOfServer", (Connection,), {"lobby": lobby})
