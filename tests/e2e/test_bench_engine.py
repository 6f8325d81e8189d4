"""The bench of the engine works: a small server is filled, and every figure comes out."""

from bench.engine.main import GROUPS, measure

NAMES = {
    "active_jobs_rss",
    "active_jobs_cpu",
    "exit_seen_p99",
    "ps_10k",
    "submits",
    "lifecycles_simulated",
    "recovery",
}


def test_all_figures_of_a_small_server_come_out() -> None:
    figures = measure(jobs=50, seconds=0.1, groups=list(GROUPS))

    assert {figure.name for figure in figures} >= NAMES
