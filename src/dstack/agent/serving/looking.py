"""One look at a replica: a connection to its port, and an HTTP request through it. A replica may answer anything."""

import asyncio
import re
import socket
from contextlib import suppress

from dstack.agent.connecting import refusal_text
from dstack.agent.serving.probes import PORT, title_of
from dstack.agent.serving.reaching import Unreachable, Way
from dstack.protocol.agent import Probe

ANSWER_BYTES_MAX = 64 << 10
"""Of an answer's status and headers. Its body is not read."""
INTERIM_MAX = 10
"""Answers of 1xx before the answer itself."""
SAID_CHARS_MAX = 60
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


def request_of(probe: Probe, port: int) -> bytes:
    """Return the request of a probe.

    Args:
        port: at which the replica listens.
    """
    body = (probe.body or "").encode()
    written = {header.name.lower() for header in probe.headers}
    own = {"Host": f"localhost:{port}", "User-Agent": "dstack-probe", "Accept": "*/*"}
    if body or probe.method in ("post", "put", "patch"):
        own["Content-Length"] = str(len(body))
    lines = [f"{title_of(probe)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in own.items() if name.lower() not in written]
    lines += [f"{header.name}: {' '.join(header.value.splitlines())}" for header in probe.headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


async def ask(connected: socket.socket, probe: Probe, port: int) -> str:
    """Send a probe's request, and judge the answer. The time is the caller's to bound.

    Returns: the reason of a failure; empty after an answer of 2xx.
    """
    reader, writer = await asyncio.open_connection(sock=connected, limit=ANSWER_BYTES_MAX)
    try:
        with suppress(ConnectionError):  # a replica may answer before it has read all
            writer.write(request_of(probe, port))
            await writer.drain()
        status = await _status_in(reader)
        return "" if 200 <= status < 300 else f"it answered {status}"
    except ValueError as error:
        return str(error)
    finally:
        writer.transport.abort()


async def _status_in(reader: asyncio.StreamReader) -> int:
    """Return the status of an answer.

    Raises:
        ValueError: it is not an answer of HTTP.
        OSError: the connection broke.
    """
    received, seen = b"", 0
    for _ in range(INTERIM_MAX + 1):
        while (end := _HEAD_END.search(received, max(0, seen - 3))) is None:
            seen = len(received)
            data = await reader.read(ANSWER_BYTES_MAX)
            received += data
            if not data:
                raise ValueError(f"the answer ends before its headers do, after {_shown(received)}")
            _check_begin(received)
        status = int(_STATUS.match(received)[1])  # type: ignore[index]  # it was checked
        if status >= 200:
            return status
        received, seen = received[end.end() :], 0
        if received:
            _check_begin(received)
    raise ValueError(f"more than {INTERIM_MAX} answers of 1xx came")


def _check_begin(received: bytes) -> None:
    """Raise `ValueError` if bytes cannot be the begin of an answer."""
    line_end = received.find(b"\n")
    is_answer = b"HTTP/1.".startswith(received[:7]) if line_end < 0 else _STATUS.match(received)
    if not is_answer:
        raise ValueError(f"the answer is not HTTP: {_shown(received)}")
    if len(received) > ANSWER_BYTES_MAX:
        raise ValueError(f"the headers of the answer have more than {ANSWER_BYTES_MAX >> 10} KiB")


def _shown(received: bytes) -> str:
    text = received[:SAID_CHARS_MAX].decode(errors="backslashreplace")
    return f"`{''.join(char if char.isprintable() else ' ' for char in text)}`" if received else "nothing"


async def look(way: Way, probe: Probe) -> str:
    """Look at a replica once. Returns the reason of a failure; empty for a success.

    Raises:
        NotKnown: there was nothing to look at.
    """
    about = "" if probe is PORT else f"`{title_of(probe)}`: "
    try:
        async with asyncio.timeout(probe.timeout_s):
            connected = await way.connect()
            if probe is PORT:
                connected.close()
                return ""
            failure = await ask(connected, probe, way.port)
    except TimeoutError:
        return f"{about}no answer within {probe.timeout_s:g} s"
    except Unreachable as error:
        return str(error)
    except OSError as error:
        return about + refusal_text(error, way.port)
    return failure and about + failure
