"""`python -m bench.engine.main [GROUP …]`: measure a server under load, show a table, then one JSON line a figure."""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.engine.world import FOREVER, World, tell, temporary_world
from bench.figures import Figure, Goal, table
from bench.processes import cpu_s, rest, rss_mb

INSTANCES = 1000
JOBS = 10_000
EXITS = 500
WATCHED_S = 20.0
SETTLING_S = 3.0
LIFECYCLES_S = 10.0
LIVES_AT_ONCE = 200
PS_ROUNDS = 5
FILL_TIMEOUT_S = 600.0
ENDS = {"done", "failed", "terminated"}


class Load:
    """A world filled with jobs, and what is measured in it."""

    def __init__(self, world: World, jobs: int) -> None:
        self._world = world
        self._jobs = jobs

    def fill(self) -> list[Figure]:
        """Submit all jobs, and wait until all run."""
        started = time.monotonic()
        cpu = cpu_s([self._world.server_pid])
        self._world.submit(self._jobs, FOREVER)
        submitted_s = time.monotonic() - started
        tell(f"  {self._jobs} submits in {submitted_s:.1f} s, server cpu {cpu_s([self._world.server_pid]) - cpu:.1f} s")
        self._world.wait_for(lambda hosts: hosts["running"] >= self._jobs, FILL_TIMEOUT_S)
        filled_s = time.monotonic() - started
        tell(f"  all run after {filled_s:.1f} s, server cpu {cpu_s([self._world.server_pid]) - cpu:.1f} s")
        return [
            Figure("submits", self._jobs / submitted_s, "submits/s", Goal(200, "submits/s", at_least=True)),
            Figure("filled", self._jobs / filled_s, "jobs/s"),
        ]

    def rss(self) -> list[Figure]:
        """Its memory."""
        return [Figure("active_jobs_rss", rss_mb([self._world.server_pid]), "MB", Goal(1000, "MB"))]

    def cpu(self) -> list[Figure]:
        """Its processor while nothing changes."""
        rest(SETTLING_S)
        before = cpu_s([self._world.server_pid])
        rest(WATCHED_S)
        percent = (cpu_s([self._world.server_pid]) - before) / WATCHED_S * 100
        return [Figure("active_jobs_cpu", percent, "% of a core", Goal(50, "% of a core"))]

    def exits(self) -> list[Figure]:
        """From the exit of a job at its host to the end of its run at a client that follows the events."""
        client = self._world.client()
        events = client.events.follow(after=self._cursor())
        ended = self._world.tell_hosts(end=min(EXITS, self._jobs // 4))["ended"]
        seen: dict[str, float] = {}
        while len(seen) < len(ended):
            event = next(events)
            if event.run_id in ended and event.kind.startswith("run.") and event.status in ENDS:
                seen[event.run_id] = time.monotonic() - ended[event.run_id]
        client.close()
        at_percent = statistics.quantiles(seen.values(), n=100)
        return [
            Figure("exit_seen_p50", at_percent[49] * 1000, "ms"),
            Figure("exit_seen_p99", at_percent[98] * 1000, "ms", Goal(1000, "ms")),
        ]

    def ps(self) -> list[Figure]:
        """What `dstack ps` asks, and the command as a whole."""
        client = self._world.client()
        asked, whole = [], []
        command = [str(Path(sys.executable).with_name("dstack")), "ps", "--json"]
        env = {"DSTACK_PROJECT": "main", "DSTACK_SERVER_URL": self._world.url, "DSTACK_TOKEN": self._world.token}
        for _ in range(PS_ROUNDS):
            started = time.monotonic()
            client.runs.list()
            asked.append(time.monotonic() - started)
            started = time.monotonic()
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            whole.append(time.monotonic() - started)
        client.close()
        return [
            Figure("ps_10k", statistics.median(asked) * 1000, "ms", Goal(300, "ms")),
            Figure("ps_10k_command", statistics.median(whole) * 1000, "ms"),
        ]

    def lives(self) -> list[Figure]:
        """Whole lives a second of runs that end at once."""
        client = self._world.client()
        events = client.events.follow(after=self._cursor())
        started = time.monotonic()
        cpu = cpu_s([self._world.server_pid])
        lives = 0
        while time.monotonic() - started < LIFECYCLES_S:
            self._world.submit(LIVES_AT_ONCE, "true")
            ended = 0
            while ended < LIVES_AT_ONCE:
                event = next(events)
                ended += event.kind.startswith("run.") and event.status in ENDS
            lives += ended
        seconds = time.monotonic() - started
        used_ms = (cpu_s([self._world.server_pid]) - cpu) / lives * 1000
        client.close()
        return [
            Figure("lifecycles_simulated", lives / seconds, "runs/s", Goal(150, "runs/s", at_least=True)),
            Figure("lifecycle_cpu", used_ms, "ms"),
        ]

    def recovery(self) -> list[Figure]:
        """From the death of the server to its full service: it answers, all links are up, and an exit is seen."""
        linked = self._world.tell_hosts()["linked"]
        self._world.kill_server()
        started = time.monotonic()
        self._world.start_server()
        answers_s = time.monotonic() - started
        client = self._world.client()
        self._world.wait_for(lambda hosts: hosts["linked"] >= linked, FILL_TIMEOUT_S)
        linked_s = time.monotonic() - started
        events = client.events.follow(after=self._cursor())
        (run_id,) = self._world.tell_hosts(end=1)["ended"]
        while True:
            event = next(events)
            if event.run_id == run_id and event.kind.startswith("run.") and event.status in ENDS:
                break
        seconds = time.monotonic() - started
        client.close()
        return [
            Figure("recovery_http", answers_s, "s"),
            Figure("recovery_links", linked_s, "s"),
            Figure("recovery", seconds, "s", Goal(10, "s")),
        ]

    def _cursor(self) -> int:
        client = self._world.client()
        views = [run.view for run in client.runs.list()]
        client.close()
        return max((view.cursor for view in views), default=0)


def main() -> int:
    """Measure what was asked for, or everything. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine.main", description="Measure a server under load.")
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("groups", nargs="*")
    arguments = parser.parse_args()
    with temporary_world(arguments.instances) as world:
        load = Load(world, arguments.jobs)
        known: dict[str, Callable[[], list[Figure]]] = {
            "rss": load.rss,
            "cpu": load.cpu,
            "ps": load.ps,
            "exits": load.exits,
            "recovery": load.recovery,
            "lives": load.lives,
        }
        tell("filling …")
        figures = load.fill()
        for name in arguments.groups or known:
            tell(f"measuring {name} …")
            figures += known[name]()
            tell(f"  {table(figures[-3:])}")
    print(table(figures), *(one.to_json() for one in figures), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
