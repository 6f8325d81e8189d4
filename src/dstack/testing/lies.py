"""The messages of a hostile agent: about jobs of other machines and of none, without sense, and too many."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dstack.protocol.agent import LOG_STREAMS, JobReport, to_json

INVENTED = 40
NONSENSE: tuple[dict[str, Any], ...] = (
    {"t": "job", "report": {"job_id": 7, "state": "ended"}},
    {"t": "log", "job_id": "000001", "stream": "job", "offset": -1, "at": 0.0},
    {"t": "log_gap", "job_id": "000001", "stream": "job", "offset": 0, "end": "all", "at": 0.0},
    {"t": "reply", "id": []},
    {"t": "ssh", "port": 1 << 60, "host_key": None},
)
"""Each of these ends the connection."""


def lies(chance: random.Random, own: Sequence[JobReport], others: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Return messages, the last of which may end the connection.

    Args:
        own: reports of the machine's own jobs, which are true.
        others: the ids of jobs on other machines.
    """
    for job_id in others:
        for state in ("running", "ended"):
            report = JobReport(job_id, state, end="exited", exit_code=chance.choice([0, 7]), log_bytes=0, logged=True)
            yield {"t": "job", "report": to_json(report if state == "ended" else replace(report, end=None))}
        for stream in LOG_STREAMS:
            yield {"t": "log_gap", "job_id": job_id, "stream": stream, "offset": 0, "end": 9, "at": 1.0}
        yield {"t": "metrics", "points": {job_id: [[1.0, 0.0, 0.0, []]]}}
    for number in range(INVENTED):
        yield {"t": "job", "report": {"job_id": f"no-{number}", "state": chance.choice(["running", "ended"])}}
        yield {"t": chance.choice(["rumour", "reply", "metrics"]), "id": number, "points": chance.choice([7, {}])}
    for report in [*own, *own]:
        yield {"t": "job", "report": to_json(report)}
    if chance.random() < 0.5:
        yield chance.choice(NONSENSE)
