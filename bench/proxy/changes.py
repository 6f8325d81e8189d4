"""Changes of routes while requests and streams go through: how soon one is live, and what it cuts."""

import asyncio
import http.client
import statistics
import time
from dataclasses import dataclass

from bench.proxy.load import Load, streams
from bench.proxy.subjects import Bench, Plane, service
from dstack.protocol.proxy import Changes, Service, Snapshot

SERVICES = 1000
CHANGES = 40
CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Live:
    """The effect of changes."""

    median_ms: float
    worst_ms: float
    failed: int
    """Requests that failed, and streams that were cut."""
    requests: int


def measure(bench: Bench, plane: Plane) -> Live:
    """Change routes while 1,000 services with two replicas are registered."""
    other = bench.another_replica()
    services = [service(f"s{number}", bench.replica, bench.replica + 1) for number in range(SERVICES)]
    fixed = (service("web", bench.replica), service("streams", bench.streams))
    plane.send(Snapshot(2, (*services, *fixed), {}))
    return asyncio.run(_measure(bench, plane, other))


async def _measure(bench: Bench, plane: Plane, other: int) -> Live:
    load = asyncio.create_task(streams(plane.subject, CHANGES * 0.1))
    stop = asyncio.Event()
    clients = [asyncio.to_thread(_requests, plane, stop) for _ in range(CLIENTS)]
    running = asyncio.gather(*clients)
    await asyncio.sleep(1)
    delays_ms = []
    for number in range(CHANGES):
        target = service("s0", other if number % 2 else bench.replica)
        moved = service("web", *((bench.replica, other) if number % 2 else (bench.replica,)))
        delays_ms.append(await asyncio.to_thread(_change, plane, number + 2, (target, moved)))
        await asyncio.sleep(0.05)
    held: Load = await load
    stop.set()
    counts = await running
    failed = held.failed + sum(failed for _, failed in counts)
    return Live(statistics.median(delays_ms), max(delays_ms), failed, sum(done for done, _ in counts))


def _change(plane: Plane, since: int, services: tuple[Service, ...]) -> float:
    """Change services; return the milliseconds until the data plane has confirmed it."""
    began = time.perf_counter()
    plane.send(Changes(version=since + 1, since=since, services=services))
    return (time.perf_counter() - began) * 1e3


def _requests(plane: Plane, stop: asyncio.Event) -> tuple[int, int]:
    """Send requests one after the other; return their number, and how many of them failed."""
    host, _, path = plane.subject.url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    done = failed = 0
    while not stop.is_set():
        done += 1
        try:
            connection.request("GET", f"/{path}")
            answer = connection.getresponse()
            answer.read()
            failed += answer.status != 200
        except (OSError, http.client.HTTPException):
            failed += 1
    connection.close()
    return done, failed
