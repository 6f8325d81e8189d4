"""`python -m bench.engine.hosts FOLDER`: all machines there are, in one process that outlives every server."""

import asyncio
import gc
import json
import random
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from pathlib import Path

from bench.engine.fleet import agents_socket, control_socket, offer_of
from dstack.protocol.frames import LINE_BYTES_MAX
from dstack.testing.hosts import Host, HostJob
from dstack.testing.nature import Nature

BACKLOG = 2048


class Hosts:
    """Machines come into being when somebody first connects to them."""

    def __init__(self, seed: int) -> None:
        self._hosts: dict[str, Host] = {}
        self._chance = random.Random(seed)
        self._nature = Nature(self._chance)

    async def accept_agent(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One server's connection to one agent."""
        key = (await reader.readline()).decode().strip()
        if key not in self._hosts:
            self._hosts[key] = Host(key, offer_of(1), 0.0, self._nature)
        self._hosts[key].accept(reader, writer)

    async def accept_control(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Whoever measures."""
        while line := await reader.readline():
            writer.write(json.dumps(self._obey(json.loads(line))).encode() + b"\n")
            await writer.drain()

    def _obey(self, order: dict[str, int]) -> dict[str, object]:
        match order:
            case {"end": count}:
                return {"ended": dict(self._end(host, job) for host, job in self._some(count))}
            case _:
                linked = sum(host.is_connected for host in self._hosts.values())
                running = Counter(job.order.job_id for _, job in self._running())
                twice = sum(count > 1 for count in running.values())
                return {"running": running.total(), "linked": linked, "twice": twice}

    def _running(self) -> list[tuple[Host, HostJob]]:
        return [(host, job) for host in self._hosts.values() for job in host.running]

    def _some(self, count: int) -> list[tuple[Host, HostJob]]:
        return self._chance.sample([one for one in self._running() if "# stays" not in one[1].order.script], count)

    def _end(self, host: Host, job: HostJob) -> tuple[str, float]:
        """Let it exit; returns its run and when."""
        ended_at = time.monotonic()
        host.end_job(job, 0)
        return job.order.env["DSTACK_RUN_ID"], ended_at


async def serve(folder: Path) -> None:
    """Be there until killed."""
    hosts = Hosts(seed=1)
    await asyncio.start_unix_server(hosts.accept_agent, agents_socket(folder), limit=LINE_BYTES_MAX, backlog=BACKLOG)
    control = await asyncio.start_unix_server(hosts.accept_control, control_socket(folder))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    gc.freeze()
    await control.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
