"""The access log: one JSON line for each request, in two files of bounded size."""

import asyncio
import logging
from pathlib import Path

from msgspec import Struct, json

from dstack.kit.clock import Clock, SystemClock
from dstack.proxy.exchanges import Exchange
from dstack.proxy.routes import Route

log = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0
FILE_BYTES_MAX = 32 << 20
"""A file of this size becomes `access.log.1`, in the place of the one before."""
WAITING_MAX = 100_000
"""The bound of lines that wait to be written; beyond it they are dropped, and counted."""


class Line(Struct, frozen=True):
    """One request. Queries and headers are left out: they may be confidential."""

    at: str
    project: str
    service: str
    client: str
    method: str
    path: str
    status: int
    received: int
    """Bytes of the request's body."""
    sent: int
    """Bytes of the answer's body."""
    first_byte_ms: float | None
    took_ms: float


class AccessLog:
    """The access log of one data plane."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._waiting: list[bytes] = []
        self._dropped = 0

    def note(self, exchange: Exchange, route: Route, took_s: float) -> None:
        """Note a request that has ended."""
        if len(self._waiting) >= WAITING_MAX:
            self._dropped += 1
            return
        first_s = exchange.first_byte_s
        line = Line(
            at=self._clock.now().isoformat(timespec="milliseconds"),
            project=route.service.project,
            service=route.service.name,
            client=exchange.client.address.decode(),
            method=exchange.method.decode("latin-1"),
            path=exchange.target.partition(b"?")[0].decode("latin-1"),
            status=exchange.status,
            received=exchange.received_bytes,
            sent=exchange.sent_bytes,
            first_byte_ms=None if first_s is None else round(first_s * 1000, 2),
            took_ms=round(took_s * 1000, 2),
        )
        self._waiting.append(json.encode(line))

    async def write(self) -> None:
        """Write what was noted, once a second."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            if self._waiting:
                await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write what was noted. Blocks."""
        lines, self._waiting = self._waiting, []
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("%d lines of the access log were dropped", dropped)
        try:
            with open(self._path, "ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))
                size = file.tell()
            if size > FILE_BYTES_MAX:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
        except OSError as error:  # a full disk stops no request
            log.warning("%d lines of the access log could not be written: %s", len(lines), error)
