"""The bench of the scaling rule lives through a short trace, and notices a goal that is missed."""

import pytest
from bench.autoscaling import main as bench
from bench.autoscaling.rules import OURS, PLAIN
from bench.autoscaling.traces import Trace
from bench.autoscaling.world import Outcome

BURST = Trace("spike", length_s=900.0, peak=12.0, rate=lambda at: 12.0 if 300 <= at < 480 else 1.0)
VISIT = Trace("visit", length_s=1500.0, peak=1.0, rate=lambda at: 1.0 if at < 10 else 0.0, minimum=0)


@pytest.mark.parametrize("is_central", [True, False])
@pytest.mark.parametrize("trace", [BURST, VISIT], ids=lambda trace: trace.name)
def test_each_request_of_a_trace_is_answered_or_dropped(trace: Trace, is_central: bool) -> None:
    for subject in (OURS, PLAIN):
        outcome = bench.Case(trace, 1, subject, is_central).run()
        assert len(outcome.waits_s) + outcome.dropped == outcome.requests > 0
        assert outcome.decisions > 0 and outcome.replica_s > 0


def test_replicas_of_a_visited_service_start_and_end() -> None:
    outcome = bench.Case(VISIT, 1, OURS, is_central=True).run()
    assert (outcome.decisions, outcome.dropped) == (2, 0)
    assert 600 < outcome.replica_s < 900


def test_table_names_the_goals_that_are_missed() -> None:
    late = Outcome(requests=2, waits_s=[0.0, 5.0], replica_s=7200, decisions=1)
    figures = bench.figures_of("spike", "central", [late], [late])
    line = bench.table({("spike", "central"): figures}).splitlines()[1]
    assert line.split()[:4] == ["spike", "central", "50.0", "(50.0)"]
    assert line.endswith("waited <= 25 %")
    assert all(one.meets_goal is None for one in bench.figures_of("spike", "replicas", [late], [late]))
