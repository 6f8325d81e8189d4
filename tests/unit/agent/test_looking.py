"""One look at a replica, which may answer anything."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from dstack.agent.serving.looking import ANSWER_BYTES_MAX, ask, request_of
from dstack.protocol.agent import Header, Probe
from tests.patience import PATIENCE_S

PROBE = Probe("/health")


async def looked(answer: bytes, probe: Probe = PROBE) -> tuple[str, bytes]:
    """Return the result of a look at a server that answers so, and the request that it received."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=theirs)
    looking = asyncio.create_task(ask(ours, probe, 8000))
    request = await reader.readuntil(b"\r\n\r\n")
    writer.write(answer)
    if not answer.endswith(b"<open>"):
        writer.write_eof()
    async with asyncio.timeout(PATIENCE_S):
        failure = await looking
    writer.transport.abort()
    return failure, request


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n<open>", ""),
        (b"HTTP/1.0 204\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\n\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", "it answered 302"),
        (b"HTTP/1.1 503 \r\n\r\n", "it answered 503"),
        (b"", "the answer ends before its headers do, after nothing"),
        (b"HTTP/1.1 200 OK\r\na: b\r\n", "the answer ends before its headers do, after `HTTP/1.1 200 OK  a: b  `"),
        (b"\x16\x03\x01\x00\xa5", "the answer is not HTTP: `    \\xa5`"),
        (b"SSH-2.0-OpenSSH_9.2\r\n<open>", "the answer is not HTTP: `SSH-2.0-OpenSSH_9.2  <open>`"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP: `HTTP/1.1 2000 OK    `"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * ANSWER_BYTES_MAX, "the headers of the answer have more than 64 KiB"),
        (b"HTTP/1.1 200 " + b"x" * 2 * ANSWER_BYTES_MAX, "the headers of the answer have more than 64 KiB"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + b"<open>", "more than 10 answers of 1xx came"),
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_answer_is_a_success_or_has_a_reason(answer: bytes, failure: str) -> None:
    assert (await looked(answer))[0] == failure


async def test_request_has_the_probes_method_path_headers_and_body() -> None:
    headers = (Header("Host", "example.com"), Header("X-Two", "a\r\nX-Evil: b"))
    probe = Probe("/v1?a=b", "post", headers, body="ü")
    _, request = await looked(b"HTTP/1.1 200 OK\r\n\r\n", probe)
    lines = request.decode().split("\r\n")
    assert lines[0] == "POST /v1?a=b HTTP/1.1"
    assert {"Host: example.com", "X-Two: a X-Evil: b", "Content-Length: 2", "Connection: close"} <= set(lines)
    assert sum(line.lower().startswith("host:") for line in lines) == 1
    assert request_of(probe, 8000).endswith("\r\n\r\nü".encode())
    assert b"Host: localhost:8000\r\n" in request_of(PROBE, 8000)


@pytest.mark.parametrize("drip", [lambda: b"HTTP/1.1 200 OK\r\n", lambda: b"", lambda: b"HTTP/1.1 200"])
async def test_silence_ends_with_the_callers_time(drip: Callable[[], bytes]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        theirs.sendall(drip())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(ours, PROBE, 8000)
