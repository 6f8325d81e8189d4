"""One small scenario, told again with the server dying at each point there is: before and after every commit, every
blocking call, every effect and every message."""

import logging
import random
from collections.abc import Iterator

import pytest

from dstack.protocol.statuses import RunStatus
from dstack.testing.behaviours import Behaviour
from dstack.testing.crashes import at_point
from dstack.testing.histories import Script, Story, play
from dstack.testing.plans import Plan, StopPlan

POINTS_MIN = 200
PARTS = 8
"""The points are dealt out to so many tests, which run side by side."""

PLANS = (
    Plan(
        "gang",
        0.0,
        {"type": "task", "commands": ["work"], "nodes": 2, "backends": ["aws"], "idle_duration": 60},
        Behaviour(takes_s=30, prints=b"hello"),
    ),
    Plan(
        "retried",
        1.0,
        {"type": "task", "commands": ["work"], "retry": True, "backends": ["local"], "idle_duration": 60},
        Behaviour(exits=(1, 0), takes_s=10),
    ),
    Plan(
        "stopped",
        2.0,
        {"type": "task", "commands": ["work"], "backends": ["local"], "idle_duration": 60},
        Behaviour(takes_s=3600),
        StopPlan(after_s=5.0, when=RunStatus.RUNNING, abort=False),
    ),
)


def story_with_death_at(point: int) -> Story:
    return play(Script(0, random.Random(0), (), PLANS, at_point(point)))


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("part", range(PARTS))
def test_wherever_the_server_dies_everything_ends_as_if_it_had_not(part: int) -> None:
    undisturbed = story_with_death_at(0)
    assert (undisturbed.violations, undisturbed.deaths) == ((), ())
    assert undisturbed.ends == {"done": 2, "terminated": 1}
    assert undisturbed.points >= POINTS_MIN
    for point in range(1 + part, undisturbed.points + 1, PARTS):
        story = story_with_death_at(point)
        assert len(story.deaths) == 1
        assert (story.violations, story.ends) == ((), undisturbed.ends), f"dies {story.deaths} (point {point})"
