"""Two servers on PostgreSQL bear the largest queue and market: no lease lapses, and the database kills nothing."""

from pathlib import Path

import pytest
from bench.placement import INSTANCES, JOBS
from bench.replicas.main import measure

from tests.postgres import PostgresServer

SECONDS = 75.0
NEVER = {"replicas_shards_moved", "replicas_faults", "replicas_placed_twice"}


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_no_lease_lapses_and_no_pass_is_killed_under_the_largest_load(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.url(postgres.create())
    figures = {figure.name: figure.value for figure in measure(tmp_path, url, INSTANCES, JOBS, SECONDS)}
    assert {name: figures[name] for name in NEVER} == dict.fromkeys(NEVER, 0)
    assert figures["replicas_jobs_running"] > 0
