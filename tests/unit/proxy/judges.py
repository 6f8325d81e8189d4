"""Other readers of HTTP: each sees the messages in the same bytes, or a reason to stop."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import h11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser


class Message(NamedTuple):
    """One request, as a reader sees it."""

    method: bytes
    target: bytes
    body: bytes


class Verdict(NamedTuple):
    """The requests in some bytes."""

    messages: list[Message]
    """Those that are complete."""
    has_stopped: bool
    """Whether the reader has refused the rest, rather than wait for more."""


def h11_sees(data: bytes) -> Verdict:
    """Return what h11 sees."""
    messages: list[Message] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    method = target = body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return Verdict(messages, True)
        if event is h11.NEED_DATA:
            return Verdict(messages, False)
        if isinstance(event, h11.Request):
            method, target, body = event.method, event.target, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            messages.append(Message(method, target, body))
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return Verdict(messages, True)
            connection.start_next_cycle()
        else:
            return Verdict(messages, True)


def aiohttp_sees(data: bytes) -> Verdict:
    """Return what aiohttp sees."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 20)
    try:
        found, is_upgraded, _ = parser.feed_data(data)
    except (HttpProcessingError, ValueError):
        return _of_the_parts(data)
    messages = []
    for head, payload in found:
        if payload.exception() is not None:
            return Verdict(messages, True)
        if not payload.is_eof():
            return Verdict(messages, False)
        body = b"".join(payload._buffer) if hasattr(payload, "_buffer") else b""
        messages.append(Message(head.method.encode(), head.path.encode("utf-8", "surrogateescape"), body))
        if head.should_close or is_upgraded:
            return Verdict(messages, True)
    return Verdict(messages, False)


def _of_the_parts(data: bytes) -> Verdict:
    """Return the messages before an error, which aiohttp reports instead of them."""
    end = data.rfind(b"\r\n\r\n", 0, len(data) - 1)
    while end > 0:
        verdict = aiohttp_sees_start(data[: end + 4])
        if verdict is not None:
            return Verdict(verdict.messages, True)
        end = data.rfind(b"\r\n\r\n", 0, end)
    return Verdict([], True)


def aiohttp_sees_start(data: bytes) -> Verdict | None:
    """Return what aiohttp sees in bytes that may be wrong."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 20)
    try:
        parser.feed_data(data)
    except (HttpProcessingError, ValueError):
        return None
    return aiohttp_sees(data)


JUDGES: dict[str, Callable[[bytes], Verdict]] = {"h11": h11_sees, "aiohttp": aiohttp_sees}
