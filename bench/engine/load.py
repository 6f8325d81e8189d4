"""A server that holds thousands of jobs, and what is measured of it."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.engine.bare import commit_lives, commit_submits, json_ms
from bench.engine.fleet import FOREVER, STAYS
from bench.engine.watching import ends_after
from bench.engine.world import World, tell
from bench.figures import Figure, Goal, timed
from bench.idleness import bare_rss_mb
from bench.processes import cpu_s, rest, rss_mb
from bench.startup import BARE, run
from dstack.api import Client
from dstack.protocol import wire

EXITS = 500
SPREAD_EVERY_S = 0.02
PS_RUNS = 100
PS_ROUNDS = 5
SETTLING_S = 3.0
LIVES_AT_ONCE = 200
FILL_TIMEOUT_S = 600.0
LIVES_GOAL = Goal(150, "runs/s", at_least=True)


class Load:
    """A world filled with jobs."""

    def __init__(self, world: World, jobs: int, seconds: float) -> None:
        """Args: `seconds`: how long to watch what has no end of its own."""
        self._world = world
        self._jobs = jobs
        self._seconds = seconds
        self._team = world.add_team("small")

    def _cpu_s(self) -> float:
        return cpu_s([self._world.server_pid])

    def fill(self) -> list[Figure]:
        """Submit all jobs, and wait until all run. A hundred of them belong to somebody who has no others."""
        started, cpu = time.monotonic(), self._cpu_s()
        of_team = min(PS_RUNS, self._jobs // 2)
        self._world.submit(of_team, STAYS, self._team)
        self._world.submit(self._jobs - of_team, FOREVER)
        submitted_s = time.monotonic() - started
        submit_ms = (self._cpu_s() - cpu) / self._jobs * 1000
        tell(f"  {self._jobs} submits in {submitted_s:.1f} s")
        self._world.wait_for(lambda hosts: hosts["running"] >= self._jobs, FILL_TIMEOUT_S)
        running_s = time.monotonic() - started
        bare = commit_submits(self._world.database)
        per_s, goal = self._jobs / submitted_s, Goal(200, "submits/s", at_least=True)
        return [
            Figure("submits", per_s, "submits/s", goal, bare.runs_per_s),
            Figure("submit_cpu", submit_ms, "ms", baseline=bare.cpu_ms_per_run),
            Figure("submit_to_running", self._jobs / running_s, "jobs/s", baseline=bare.runs_per_s),
        ]

    def rss(self) -> list[Figure]:
        """Its memory."""
        return [Figure("active_jobs_rss", rss_mb([self._world.server_pid]), "MB", Goal(1000, "MB"), bare_rss_mb())]

    def cpu(self) -> list[Figure]:
        """Its processor while nothing changes."""
        rest(SETTLING_S)
        before = self._cpu_s()
        rest(2 * self._seconds)
        percent = (self._cpu_s() - before) / (2 * self._seconds) * 100
        return [Figure("active_jobs_cpu", percent, "% of a core", Goal(50, "% of a core"))]

    def ps(self) -> list[Figure]:
        """What `dstack ps` asks and the command as a whole for one who has a hundred runs, and a list of all.

        Beside them a bare JSON loop over the same answers, and a bare Python.
        """
        small, large = self._world.client(self._team), self._world.client()
        command = [str(Path(sys.executable).with_name("dstack")), "ps", "--json"]
        env = {
            "DSTACK_PROJECT": self._team.project,
            "DSTACK_SERVER_URL": self._world.url,
            "DSTACK_TOKEN": self._team.token,
        }
        asked = [_timed_ms(small.runs.list) for _ in range(PS_ROUNDS)]
        whole = [
            _timed_ms(lambda: subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL))
            for _ in range(PS_ROUNDS)
        ]
        bare = [_timed_ms(lambda: run(BARE)) for _ in range(PS_ROUNDS)]
        everything = _timed_ms(large.runs.list)
        some_json, all_json = _json_ms(small), _json_ms(large)
        small.close()
        large.close()
        return [
            Figure("ps_10k", statistics.median(asked), "ms", Goal(300, "ms"), some_json),
            Figure("ps_10k_command", statistics.median(whole), "ms", baseline=statistics.median(bare)),
            Figure("ps_all", everything, "ms", baseline=all_json),
        ]

    def exits(self) -> list[Figure]:
        """From the exit of a job at its host to the end of its run at a client that follows the events."""
        count = min(EXITS, self._jobs // 4)
        burst = self._exits([count])
        spread = self._exits([1] * (count // 2))
        return [
            Figure("exit_seen_p50", burst[49], "ms"),
            Figure("exit_seen_p99", burst[98], "ms", Goal(1000, "ms")),
            Figure("exit_seen_spread_p50", spread[49], "ms"),
            Figure("exit_seen_spread_p99", spread[98], "ms", Goal(1000, "ms")),
        ]

    def _exits(self, parts: list[int]) -> list[float]:
        """The percentiles of how late an exit is heard of, where so many jobs end at once again and again."""
        ended: dict[str, float] = {}
        with ends_after(self._world.client(), self._world.cursor()) as ends:
            for part in parts:
                ended |= self._world.tell_hosts(end=part)["ended"]
                rest(SPREAD_EVERY_S)
            ends.wait_for(ended)
        late_ms = [(ends.heard[run] - at) * 1000 for run, at in ended.items()]
        return statistics.quantiles(late_ms, n=100)

    def lives(self) -> list[Figure]:
        """Whole lives a second of runs that end at once."""
        started, cpu = time.monotonic(), self._cpu_s()
        lives = 0
        with ends_after(self._world.client(), self._world.cursor()) as ends:
            while not lives or time.monotonic() - started < self._seconds:
                self._world.submit(LIVES_AT_ONCE, "true")
                lives += LIVES_AT_ONCE
                ends.wait_for_count(lives)
        seconds, cpu_ms = time.monotonic() - started, (self._cpu_s() - cpu) / lives * 1000
        bare = commit_lives(self._world.database)
        return [
            Figure("lifecycles_simulated", lives / seconds, "runs/s", LIVES_GOAL, bare.runs_per_s),
            Figure("lifecycle_cpu", cpu_ms, "ms", baseline=bare.cpu_ms_per_run),
        ]

    def recovery(self) -> list[Figure]:
        """From the death of the server to its full service: it answers, all links are up, and an exit is seen."""
        linked = self._world.tell_hosts()["linked"]
        self._world.kill_server()
        started = time.monotonic()
        self._world.start_server()
        answers_s = time.monotonic() - started
        with ends_after(self._world.client(), self._world.cursor()) as ends:
            self._world.wait_for(lambda hosts: hosts["linked"] >= linked, FILL_TIMEOUT_S)
            linked_s = time.monotonic() - started
            ended = self._world.tell_hosts(end=1)["ended"]
            ends.wait_for(ended)
            seconds = time.monotonic() - started
        return [
            Figure("recovery_http", answers_s, "s"),
            Figure("recovery_links", linked_s, "s"),
            Figure("recovery", seconds, "s", Goal(10, "s")),
            Figure("recovery_cpu", self._cpu_s(), "s"),
        ]


def _timed_ms(work: Callable[[], object]) -> float:
    return timed(work)() * 1000


def _json_ms(client: Client) -> float:
    return json_ms(json.loads(wire.encoded([one.view for one in client.runs.list()])))
