"""`python -m bench.engine.hostile [ATTACK …]`: measure what one hostile agent costs the server and the other machines.

Each attack meets a fresh server. A row has the growth of the server's memory against a server that nobody attacks, the
longest life of a short run on another machine, and the bytes that the agent wrote meanwhile. `--gib 10` goes on until
it has written that much.
"""

import argparse
import asyncio
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

from bench.engine.fleet import FOREVER, JOBS_PER_INSTANCE, RESOURCES, own_socket
from bench.engine.world import World, tell, temporary_world
from dstack.api import Task
from dstack.protocol.agent import to_json
from dstack.protocol.frames import LINE_BYTES_MAX

RUNS = 20
RUNNING_TIMEOUT_S = 120.0
RSS_MIB_MAX = 50.0
LIFE_S_MAX = 1.0
"""More than without an attack."""

Job = str
Attack = Callable[[list[Job]], AsyncIterator[bytes]]


def _line(**frame: object) -> bytes:
    return json.dumps(frame).encode() + b"\n"


async def garbage(jobs: list[Job]) -> AsyncIterator[bytes]:
    """Bytes without sense."""
    while True:
        yield os.urandom(1 << 16)


async def endless(jobs: list[Job]) -> AsyncIterator[bytes]:
    """One line that does not end."""
    while True:
        yield b"x" * (1 << 16)


async def events(jobs: list[Job]) -> AsyncIterator[bytes]:
    """Messages of a type that no version knows, with long payloads."""
    while True:
        yield _line(t="event", text="x" * 1000, bytes=1 << 16) + bytes(1 << 16)


async def lists(jobs: list[Job]) -> AsyncIterator[bytes]:
    """Lines that take far more memory than bytes."""
    while True:
        yield b'{"t":"event","of":[' + b"[]," * 300_000 + b"[]]}\n"


async def strangers(jobs: list[Job]) -> AsyncIterator[bytes]:
    """Reports of millions of jobs."""
    for number in itertools.count():
        yield _line(t="job", report={"job_id": f"no-{number}", "state": "running", "message": "x" * 10_000})


async def reports(jobs: list[Job]) -> AsyncIterator[bytes]:
    """Ever new reports of the machine's own jobs, whose images have ever new layers."""
    for number in itertools.count():
        layers = [{"id": f"{number}-{n}", "got_bytes": 1, "size_bytes": 1, "ready": True} for n in range(100)]
        report = {"job_id": jobs[number % len(jobs)], "state": "preparing", "message": f"{number}", "layers": layers}
        yield _line(t="job", report=report)


async def pieces(jobs: list[Job]) -> AsyncIterator[bytes]:
    """Log bytes one by one, with gaps between them."""
    for number in itertools.count():
        place = {"job_id": jobs[0], "stream": "job", "at": float(number)}
        yield _line(t="log", **place, offset=2 * number, bytes=1) + b"x"
        yield _line(t="log_gap", **place, offset=2 * number + 1, end=2 * number + 2)


async def logs(jobs: list[Job]) -> AsyncIterator[bytes]:
    """As many log bytes as the connection takes."""
    data = bytes(1 << 18)
    for number in itertools.count():
        place = {"job_id": jobs[number % len(jobs)], "stream": "job", "at": 1.0}
        yield _line(t="log", **place, offset=number // len(jobs) * len(data), bytes=len(data)) + data


async def points(jobs: list[Job]) -> AsyncIterator[bytes]:
    """Points at any time, of the machine's own jobs and of others."""
    for number in itertools.count():
        some = [[number * 1000.0 + n, 1.0, 1.0, []] for n in range(200)]
        yield _line(t="metrics", points={jobs[0]: some, f"no-{number}": some})


ATTACKS: dict[str, Attack] = {
    one.__name__: one for one in (garbage, endless, events, lists, strangers, reports, pieces, logs, points)
}


async def be_hostile(folder: Path, key: str, attack: Attack) -> None:
    """Be the agent of one machine: welcome each server, and then attack it."""

    written = 0
    count = os.open(written_in(folder), os.O_CREAT | os.O_TRUNC | os.O_WRONLY)

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal written
        try:
            await reader.readline()  # the key
            await reader.readline()  # the hello
            jobs = jobs_of(folder, key)
            running = [{"job_id": job, "state": "preparing"} for job in jobs]
            writer.write(_line(t="welcome", agent={"v": 2}, resources=to_json(RESOURCES), jobs=running))
            async for data in attack(jobs):
                writer.write(data)
                await writer.drain()
                written += len(data)
                os.pwrite(count, str(written).encode(), 0)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, own_socket(folder, key), limit=LINE_BYTES_MAX)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


def jobs_of(folder: Path, key: str) -> list[Job]:
    """The jobs of one machine."""
    with closing(sqlite3.connect(folder / "server" / "server.db")) as db:
        return [id for (id,) in db.execute("SELECT id FROM jobs WHERE instance_id = ?", (key,))]


def peak_mib(pid: int) -> float:
    """The most memory that a process had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def written_gib(folder: Path) -> float:
    """How much the agent has written by now."""
    return int(written_in(folder).read_text() or 0) / (1 << 30)


def written_in(folder: Path) -> Path:
    """The file in which the agent counts its bytes."""
    return folder / "written"


def never() -> bool:
    """An attack that nobody waits for."""
    return False


def measure(world: World, goes_on: Callable[[], bool] = never) -> tuple[float, float]:
    """Have short runs live on a fresh server. Returns its peak of memory, and the longest life in seconds."""
    client, lives = world.client(), list[float]()
    while len(lives) < RUNS or goes_on():
        began = time.monotonic()
        run = client.runs.submit(Task(commands=["true"]))
        for _ in run.changes():
            pass
        lives.append(time.monotonic() - began)
        time.sleep(0.3)
    client.close()
    return peak_mib(world.server_pid), max(lives)


def attacked(world: World, folder: Path, key: str, name: str, gib: float) -> tuple[float, float, float]:
    """Restart the server, and measure it under an attack of at least `gib`."""
    world.kill_server()
    command = [sys.executable, "-m", "bench.engine.hostile", "--agent", str(folder), key, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == b"ready\n"
        world.start_server()
        try:
            peak, life_s = measure(world, lambda: written_gib(folder) < gib)
            return peak, life_s, written_gib(folder)
        finally:
            agent.kill()
            own_socket(folder, key).unlink()


def main() -> int:
    """Measure some attacks, or all. Returns 1 where one costs too much."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine.hostile", description="Attack a server.")
    parser.add_argument("--agent", nargs=2, metavar=("FOLDER", "KEY"), help="be the agent (for this program)")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"some of: {', '.join(ATTACKS)} (default: all)")
    parser.add_argument("--gib", type=float, default=0.0, help="go on until the agent has written so much")
    arguments = parser.parse_args()
    if arguments.agent:
        asyncio.run(be_hostile(Path(arguments.agent[0]), arguments.agent[1], ATTACKS[arguments.attacks[0]]))
        return 0
    is_dear = False
    with temporary_world(2) as world:
        world.submit(JOBS_PER_INSTANCE, FOREVER)
        world.wait_for(lambda state: state["running"] == JOBS_PER_INSTANCE, RUNNING_TIMEOUT_S)
        with closing(sqlite3.connect(world.database)) as db:
            ((key,),) = db.execute("SELECT DISTINCT instance_id FROM jobs").fetchall()
        world.kill_server()
        world.start_server()
        quiet_mib, quiet_s = measure(world)
        tell(f"no attack: {quiet_mib:.0f} MiB, a run takes {quiet_s:.2f} s at most")
        for name in arguments.attacks or ATTACKS:
            mib, life_s, gib = attacked(world, world.database.parent.parent, key, name, arguments.gib)
            is_dear |= mib - quiet_mib > RSS_MIB_MAX or life_s - quiet_s > LIFE_S_MAX
            tell(f"{name}: {mib - quiet_mib:+.0f} MiB, a run takes {life_s:.2f} s at most, {gib:.2f} GiB written")
    return int(is_dear)


if __name__ == "__main__":
    sys.exit(main())
