"""Show how long CI took: each stage, each area of the tests, and the areas that are over their budget.

Usage: `python .ci/report.py FOLDER`, with what `.ci/run` wrote there: `stages`, `loops`, `tests.xml`. An area over its
budget fails nothing: a machine that others share may be slow without a fault of the change.
"""

import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import mean
from xml.etree import ElementTree

BUDGETS = Path(__file__).resolve().parents[1] / "tests" / "budgets.toml"


def report(stages: list[tuple[str, float]], areas: dict[str, float], loop_s: float, budgets: dict[str, float]) -> str:
    """Return all lines.

    Args:
        stages: the seconds of each.
        areas: the seconds of all tests of each, all workers together.
        loop_s: the seconds that ten million additions take on this machine.
        budgets: the seconds that an area may take where `loop_s` is 1.5.
    """
    lines = [f"ci: the machine adds 10,000,000 numbers in {loop_s:.2f} s"]
    lines += [f"ci: {name} took {_minutes(seconds)}" for name, seconds in stages]
    for area, seconds in sorted(areas.items(), key=lambda one: -one[1]):
        # As the limit of the whole run, 10 minutes and 15 more on a machine of 1.5 s: not all of a test is computing.
        budget_s = budgets.get(area, 0.0) * (1 + loop_s) / 2.5
        verdict = f"OVER ITS BUDGET of {budget_s:.0f} s" if seconds > budget_s else f"budget {budget_s:.0f} s"
        lines.append(f"ci: the tests of {area} took {seconds:.0f} s ({verdict})")
    return "\n".join(lines)


def area_of(test_class: str, budgets: dict[str, float]) -> str:
    """Return the area of a test: the longest name of a budget that its module begins with."""
    fitting = [name for name in budgets if f"{test_class}.".startswith(f"{name}.")]
    return max(fitting, key=len, default=test_class)


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def main(folder: Path) -> None:
    """Read what `.ci/run` wrote, and print the report."""
    budgets = {name: float(seconds) for name, seconds in tomllib.loads(BUDGETS.read_text(encoding="utf-8")).items()}
    stages = [line.rsplit(" ", 1) for line in (folder / "stages").read_text().splitlines()]
    areas: dict[str, float] = defaultdict(float)
    if (tests := folder / "tests.xml").exists():
        for case in ElementTree.parse(tests).iter("testcase"):
            if test_class := case.get("classname"):  # without one, it is no test but an error of the whole run
                areas[area_of(test_class, budgets)] += float(case.get("time", 0))
    loop_s = mean(float(line) for line in (folder / "loops").read_text().split())
    sys.stdout.write(report([(name, float(seconds)) for name, seconds in stages], areas, loop_s, budgets) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
