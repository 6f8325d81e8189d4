"""The real server in made-up worlds: whatever fails, nothing is lost, doubled or leaked."""

import pytest

from dstack.testing.histories import RUNS, tell


@pytest.mark.parametrize("seed", range(1, 25))
def test_nothing_is_lost_doubled_or_leaked(seed: int) -> None:
    story = tell(seed)
    assert story.violations == (), "\n".join(story.lines)
    assert sum(story.ends.values()) == RUNS


def test_a_seed_is_one_history() -> None:
    first, second = tell(7), tell(7)
    assert first == second
