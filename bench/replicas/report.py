"""The figures of both servers, from their traces, their logs and the tables."""

import re
from itertools import pairwise
from statistics import median
from typing import Any

from bench.figures import Figure, Goal, timed
from bench.processes import rss_mb
from bench.replicas.load import Seen
from bench.replicas.world import Replicas
from dstack.engine.leases import TERMS

BARE_ROUNDS = 5
FAULTS = re.compile(
    r"(?i)statement timeout|lock timeout|idle-in-transaction|deadlock|serializ|terminating connection|Traceback"
    r"|A commit failed|A commit of|Leases? .*(could not|run out)|failed, and restarts"
)


def figures_of_start(replicas: Replicas) -> list[Figure]:
    """Return how long the first server took until its first pass with the whole market, and its memory."""
    started_s = replicas.started_s[0]
    passes = [one for one in replicas.trace(0, "pass") if one["has_market"]]
    renewed = replicas.trace(0, "renewal")
    held_s = max(one["held_s"] for one in replicas.trace(0, "write"))
    return [
        Figure("replicas_start_owned", renewed[0]["done_s"] - started_s, "s"),
        Figure("replicas_start_first_pass", passes[0]["at_s"] - started_s, "s"),
        Figure("replicas_start_all_placed", replicas.trace(0, "write")[-1]["at_s"] - started_s, "s"),
        Figure("replicas_start_longest_transaction", held_s * 1000, "ms"),
        Figure("replicas_start_rss", rss_mb([replicas.servers[0][0].pid]), "MB"),
    ]


def figures_of_load(replicas: Replicas, seen: Seen) -> list[Figure]:
    """Return what leases, passes and transactions did under load."""
    servers = range(len(replicas.servers))
    notes = {
        kind: [one for number in servers for one in _during(replicas.trace(number, kind), seen)]
        for kind in ("pass", "write", "read", "loop")
    }
    validity_s = (TERMS.lasts - TERMS.margin).total_seconds()
    gaps_s = [gap_s for number in servers for gap_s in _gaps_s(_during(replicas.trace(number, "renewal"), seen))]
    fresh = [one["took_s"] for one in notes["pass"] if not one["is_remembered"]]
    return [
        Figure("replicas_shards_moved", seen.moves, "shards", Goal(0, "shards")),
        Figure("replicas_renewal_gap", max(gaps_s, default=0.0), "s", Goal(validity_s, "s")),
        Figure("replicas_faults", _faults(replicas), "lines", Goal(0, "lines")),
        Figure("replicas_placed_twice", _placed_twice(replicas), "jobs", Goal(0, "jobs")),
        Figure("replicas_jobs_ended", seen.ended, "jobs"),
        Figure("replicas_jobs_running", replicas.tell_hosts()["running"], "jobs", baseline=seen.running),
        Figure("replicas_passes", len(notes["pass"]), "passes"),
        Figure(
            "replicas_pass_p50", median(one["took_s"] for one in notes["pass"]) * 1000, "ms", None, _bare_ms(replicas)
        ),
        Figure("replicas_pass_max", max(one["took_s"] for one in notes["pass"]) * 1000, "ms"),
        *_spread("replicas_pass_afresh", fresh),
        *_spread("replicas_write_held", [one["held_s"] for one in notes["write"]]),
        *_spread("replicas_write_waited", [one["waited_s"] for one in notes["write"]]),
        *_spread("replicas_statement", [one["longest_s"] for one in notes["write"]]),
        Figure("replicas_write_statements", max(one["statements"] for one in notes["write"]), "statements"),
        *_spread("replicas_submit", seen.submits_s),
        *_spread("replicas_loop_late", [one["late_s"] for one in notes["loop"]]),
        Figure("replicas_writing", _share(notes["write"], seen), "% of the time"),
        *(Figure(f"replicas_rss_{number}", rss_mb([replicas.servers[number][0].pid]), "MB") for number in servers),
    ]


def _bare_ms(replicas: Replicas) -> float:
    """Return what bare Python takes to read the queue."""
    query = "SELECT j.id, j.demand FROM jobs j JOIN runs r ON r.id = j.run_id WHERE j.status = 'submitted'"
    reading = timed(lambda: replicas.database.execute(query).fetchall())
    return median(reading() for _ in range(BARE_ROUNDS)) * 1000


def _share(writes: list[dict[str, Any]], seen: Seen) -> float:
    held_s: float = sum(one["held_s"] for one in writes)
    return held_s / (seen.over_s - seen.began_s) * 100


def _during(notes: list[dict[str, Any]], seen: Seen) -> list[dict[str, Any]]:
    return [one for one in notes if seen.began_s <= one["at_s"] <= seen.over_s]


def _gaps_s(renewals: list[dict[str, Any]]) -> list[float]:
    """Return how long before each renewal the lease before it had been asked for: its validity counts from there."""
    return [later["done_s"] - earlier["asked_s"] for earlier, later in pairwise(renewals)]


def _spread(name: str, values_s: list[float]) -> list[Figure]:
    if not values_s:
        return []
    return [
        Figure(f"{name}_p50", median(values_s) * 1000, "ms"),
        Figure(f"{name}_max", max(values_s) * 1000, "ms"),
    ]


def _faults(replicas: Replicas) -> int:
    lines = [line for number in range(len(replicas.servers)) for line in replicas.log(number).read_text().splitlines()]
    return sum(1 for line in lines if FAULTS.search(line))


def _placed_twice(replicas: Replicas) -> int:
    """Return the jobs that run on two hosts, and the machines for one job that hold more."""
    crowded = replicas.count(
        "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE finished_at IS NULL AND instance_id IS NOT NULL"
        " AND coalesce(report ->> 'state', '') <> 'ended'"
        " GROUP BY instance_id HAVING count(*) > 1) AS crowded"
    )
    return crowded + int(replicas.tell_hosts()["twice"])
