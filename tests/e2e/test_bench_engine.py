"""The bench of the engine works: a small server is filled, and every figure comes out."""

from bench.engine.main import GROUPS, measure

WITH_BASELINE = {"submits", "submit_cpu", "submit_to_running", "active_jobs_rss", "ps_10k", "ps_10k_command", "ps_all"}
WITH_BASELINE |= {"lifecycles_simulated", "lifecycle_cpu"}
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
    assert {figure.name for figure in figures if figure.ratio} == WITH_BASELINE
