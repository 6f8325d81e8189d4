"""The access log: one JSON line for each request, in two files of bounded size.

A line is `{"at", "project", "service", "client", "method", "path", "status", "received", "sent", "first_byte_ms",
"took_ms"}`: when the request ended, the bytes of both bodies, and the times since its head had arrived. Queries and
headers are left out: they may be confidential.
"""

import asyncio
import logging
from functools import lru_cache
from pathlib import Path

from msgspec import json

from dstack.kit.clock import Clock, SystemClock
from dstack.proxy.exchanges import Exchange
from dstack.proxy.routes import Route

log = logging.getLogger(__name__)

WRITE_AFTER_S = 0.1
"""Lines wait for others for so long. Few at a time stay in the processor's cache, which makes them cheaper."""
FILE_BYTES_MAX = 32 << 20
"""A file of this size becomes `access.log.1`, in the place of the one before."""
WAITING_MAX = 100_000
"""The bound of lines that wait to be written; beyond it they are dropped, and counted."""
STAMPED_FOR_S = 0.001
"""Requests that end within this time have one time stamp."""
REMEMBERED_MAX = 1024
"""The number of remembered starts of lines. Most requests are like one before."""
PATH_BYTES_MAX = 2048
"""Of the path below the service; the rest of a longer one is left out."""


class AccessLog:
    """The access log of one data plane."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._waiting: list[bytes] = []
        self._has_lines = asyncio.Event()
        self._dropped = 0
        self._stamp = b""
        self._stamp_until_s = 0.0

    def note(self, exchange: Exchange, route: Route, now_s: float) -> None:
        """Note a request that has ended."""
        if not self._waiting:
            self._has_lines.set()
        elif len(self._waiting) >= WAITING_MAX:
            self._dropped += 1
            return
        if now_s >= self._stamp_until_s:
            self._stamp = self._clock.now().isoformat(timespec="milliseconds").encode()
            self._stamp_until_s = now_s + STAMPED_FOR_S
        service, first_byte_s = route.service, exchange.first_byte_s
        self._waiting.append(
            b'{"at":"%b",%b,"status":%d,"received":%d,"sent":%d,"first_byte_ms":%b,"took_ms":%.2f}\n'
            % (
                self._stamp,
                _asked(
                    service.project,
                    service.name,
                    exchange.client.address,
                    exchange.method,
                    exchange.prefix,
                    exchange.rest[:PATH_BYTES_MAX],
                ),
                exchange.status,
                exchange.received_bytes,
                exchange.sent_bytes,
                b"null" if first_byte_s is None else b"%.2f" % (first_byte_s * 1000),
                (now_s - exchange.began_s) * 1000,
            )
        )

    async def write(self) -> None:
        """Write what was noted, again and again."""
        while True:
            await self._has_lines.wait()
            await asyncio.sleep(WRITE_AFTER_S)
            self._has_lines.clear()
            await asyncio.to_thread(self._append, self._take())

    def flush(self) -> None:
        """Write what was noted. Blocks."""
        self._append(self._take())

    def _take(self) -> list[bytes]:
        """Return the lines that wait: in the thread of the loop, which adds others meanwhile."""
        lines, self._waiting = self._waiting, []
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("%d lines of the access log were dropped", dropped)
        return lines

    def _append(self, lines: list[bytes]) -> None:
        try:
            with open(self._path, "ab") as file:
                file.write(b"".join(lines))
                size = file.tell()
            if size > FILE_BYTES_MAX:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
        except OSError as error:  # a full disk stops no request
            log.warning("%d lines of the access log could not be written: %s", len(lines), error)


@lru_cache(maxsize=REMEMBERED_MAX)
def _asked(project: str, service: str, client: bytes, method: bytes, prefix: bytes, rest: bytes) -> bytes:
    """Return the part of a line that is the same for requests of one kind."""
    path = prefix + rest.partition(b"?")[0]
    line = {
        "project": project,
        "service": service,
        "client": client.decode(),
        "method": method.decode("latin-1"),
        "path": path.decode("latin-1"),
    }
    return json.encode(line)[1:-1]
