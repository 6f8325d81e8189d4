"""The report of CI names the areas that are over their budget, whatever the machine."""

import runpy
from typing import Any

from tests.architecture.sources import ROOT

REPORT: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "report.py"))
BUDGETS = {"tests.e2e": 100.0, "tests.e2e.agent": 10.0}


def test_a_budget_grows_with_the_time_that_the_machine_takes_for_a_loop() -> None:
    told = [REPORT["report"]([("sim", 75.0)], {"tests.e2e": 150.0}, loop_s, BUDGETS) for loop_s in (1.5, 4.0)]

    assert "ci: sim took 1 min 15 s" in told[0]
    assert "ci: the tests of tests.e2e took 150 s (OVER ITS BUDGET of 100 s)" in told[0]
    assert "ci: the tests of tests.e2e took 150 s (budget 200 s)" in told[1]


def test_a_test_belongs_to_the_area_with_the_longest_name() -> None:
    areas = {
        name: REPORT["area_of"](name, BUDGETS)
        for name in ("tests.e2e.test_logs", "tests.e2e.agent.test_jobs", "tests.e2e.agents.test_jobs", "tests.new")
    }

    assert areas == {
        "tests.e2e.test_logs": "tests.e2e",
        "tests.e2e.agent.test_jobs": "tests.e2e.agent",
        "tests.e2e.agents.test_jobs": "tests.e2e",
        "tests.new": "tests.new",
    }
