"""The answers that the data plane gives by itself: why a request does not reach a replica."""

from http import HTTPStatus
from typing import NamedTuple

from msgspec import json

from dstack.protocol.views import Problem
from dstack.protocol.wire import encoded

CLOSE = b"connection: close\r\n"
KEEP = b"connection: keep-alive\r\n"


class Refusal(Exception):
    """A request that goes no further.

    Args:
        status: that of the answer.
        code: the wire name of the reason.
        message: one sentence without a full stop.
        hint: the next step for the caller.
        retry_after_s: after how many seconds another try makes sense.
        location: the target that the client is led to.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        retry_after_s: int | None = None,
        location: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.location = location


def body_of(refusal: Refusal, is_openai: bool) -> tuple[bytes, bytes]:
    """Return the media type and the body of a refusal: problem details, or what clients of OpenAI's API expect."""
    if is_openai:
        kind = "invalid_request_error" if refusal.status < 500 else "server_error"
        message = refusal.message if refusal.hint is None else f"{refusal.message}. {refusal.hint}"
        error = {"message": message, "type": kind, "param": None, "code": refusal.code}
        return b"application/json", json.encode({"error": error})
    title = HTTPStatus(refusal.status).phrase
    problem = Problem(title=title, status=refusal.status, code=refusal.code, detail=refusal.message, hint=refusal.hint)
    return b"application/problem+json", encoded(problem)


class Reply(NamedTuple):
    """An answer that needs no replica."""

    body: bytes
    media_type: bytes = b"application/json"
    status: int = 200
    lines: bytes = b""
    """Further header lines."""


def reply_of(refusal: Refusal, is_openai: bool) -> Reply:
    """Return the answer that gives a refusal's reason."""
    media_type, body = body_of(refusal, is_openai)
    lines = b""
    if refusal.retry_after_s is not None:
        lines = b"retry-after: %d\r\n" % refusal.retry_after_s
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        lines += b"www-authenticate: Bearer\r\n"
    if refusal.location is not None:
        lines += b"location: %b\r\n" % refusal.location
    return Reply(body, media_type, refusal.status, lines)


def answer_of(reply: Reply, persistence: bytes = CLOSE, with_body: bool = True) -> bytes:
    """Return the bytes of an answer.

    Args:
        persistence: the header line about the end of the connection; empty where it goes on as its version has it.
        with_body: False for `HEAD`.
    """
    head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
        reply.status,
        HTTPStatus(reply.status).phrase.encode(),
        reply.media_type,
        len(reply.body),
        reply.lines,
        persistence,
    )
    return head + reply.body if with_body else head
