"""Load: `wrk` for requests, and streams whose tokens are counted."""

import asyncio
import re
import subprocess
from dataclasses import dataclass

from bench.proxy.subjects import Subject

WRK_S = 3
STREAMS = 200
STREAMS_S = 5.0
TOKENS_PER_S = 50


@dataclass(frozen=True, slots=True)
class Load:
    """The result of one load."""

    cpu_us: float
    """Processor time of the proxy for each request or token."""
    p50_us: float
    count: int
    failed: int = 0


def requests(subject: Subject, connections: int) -> Load:
    """Send requests as fast as they are answered."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{WRK_S}s", "--latency", subject.url]
    before_s = subject.cpu_s()
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used_s = subject.cpu_s() - before_s
    count = int(_found(r"(\d+) requests in", output) or 0)
    failed = int(_found(r"Non-2xx or 3xx responses: (\d+)", output) or 0)
    value, unit = re.findall(r" 50%\s+([\d.]+)(us|ms|s)", output)[0]
    p50_us = float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]
    return Load(used_s / max(count, 1) * 1e6, p50_us, count, failed)


def _found(pattern: str, output: str) -> str | None:
    match = re.search(pattern, output)
    return match[1] if match else None


class _Reader(asyncio.Protocol):
    """One client of a stream: counts its tokens, and checks their order."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rest = b""
        self.tokens = 0
        self.is_cut = self.is_disordered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            self.is_disordered |= b"token %06d" % self.tokens not in event
            self.tokens += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_cut = True


async def streams(subject: Subject, during: float = STREAMS_S) -> Load:
    """Hold `STREAMS` streams, and return the processor time for each token."""
    host, _, path = subject.stream_url.removeprefix("http://").partition("/")
    port = int(host.partition(":")[2])
    loop = asyncio.get_running_loop()
    readers = [
        (await loop.create_connection(lambda: _Reader(f"/{path}"), "127.0.0.1", port))[1] for _ in range(STREAMS)
    ]
    await asyncio.sleep(1)
    before_s, tokens = subject.cpu_s(), sum(reader.tokens for reader in readers)
    await asyncio.sleep(during)
    used_s, count = subject.cpu_s() - before_s, sum(reader.tokens for reader in readers) - tokens
    failed = sum(reader.is_cut or reader.is_disordered or not reader.tokens for reader in readers)
    for reader in readers:
        reader.transport.abort()
    return Load(used_s / max(count, 1) * 1e6, 0.0, count, failed)
