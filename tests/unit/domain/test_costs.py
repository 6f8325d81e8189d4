"""The cost of a service, from the times and the prices of its replicas."""

from datetime import timedelta

from dstack.domain.costs import HOUR, Cost, Use, cost_of
from tests.making import NOW


def test_every_attempt_costs_its_own_time_at_its_own_price() -> None:
    ended = Use(NOW, NOW + HOUR / 4, 4.0)
    dearer = Use(NOW + HOUR, None, 2.5)
    assert cost_of([ended, dearer], NOW + 3 * HOUR) == Cost(hours=2.25, dollars=6.0, dollars_per_hour=2.5)


def test_service_without_replicas_costs_nothing_now() -> None:
    assert cost_of([], NOW) == Cost(0, 0, 0)
    assert cost_of([Use(NOW, NOW + HOUR, 2.0)], NOW + 9 * HOUR) == Cost(hours=1, dollars=2, dollars_per_hour=0)


def test_start_by_a_clock_that_is_ahead_costs_nothing_yet() -> None:
    assert cost_of([Use(NOW + timedelta(seconds=5), None, 2.0)], NOW) == Cost(0, 0, 2.0)
