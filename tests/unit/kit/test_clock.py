"""Time that goes on evenly where the machine's clock is set."""

import pytest

from dstack.kit.clock import NEVER_SET_S, SystemClock, elapsed_s

NOON = 1_900_000_000.0


class Machine:
    """Two clocks: one that can be set, one that cannot."""

    def __init__(self) -> None:
        self.wall_s, self.elapsed_s = NOON, 50.0
        self.clock = SystemClock(lambda: self.wall_s, lambda: self.elapsed_s)

    def pass_time(self, seconds: float) -> float:
        """How long that was by the clock."""
        before = self.clock.now()
        self.wall_s += seconds
        self.elapsed_s += seconds
        return (self.clock.now() - before).total_seconds()

    def wrong_s(self) -> float:
        return self.clock.now().timestamp() - self.wall_s


@pytest.mark.parametrize("jump_s", [10_800.0, -10_800.0, 86_400.0 * 7])
def test_spans_stay_true_while_the_machines_clock_jumps_and_the_day_is_right_again_later(jump_s: float) -> None:
    machine = Machine()
    assert machine.pass_time(60) == pytest.approx(60)
    machine.wall_s += jump_s
    assert machine.clock.now().timestamp() == pytest.approx(NOON + 60)
    assert machine.pass_time(60) == pytest.approx(60, rel=0.11)
    assert machine.pass_time(3600) > 0
    machine.pass_time(abs(jump_s) * 11)
    assert machine.wrong_s() == pytest.approx(0)


def test_a_small_correction_is_followed_and_a_clock_that_was_never_set_at_once() -> None:
    machine = Machine()
    machine.wall_s += 0.05
    machine.pass_time(1)
    assert machine.wrong_s() == pytest.approx(0)
    machine.wall_s += NEVER_SET_S + 1
    assert machine.wrong_s() == pytest.approx(0)


def test_it_may_begin_with_the_time_of_another() -> None:
    machine = Machine()
    assert SystemClock(lambda: machine.wall_s, lambda: 1.0, begin_s=NOON - 9).now().timestamp() == NOON - 9


def test_elapsed_time_does_not_go_back() -> None:
    assert elapsed_s() <= elapsed_s()
