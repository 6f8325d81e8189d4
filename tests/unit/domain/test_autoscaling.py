"""The number of replicas follows the traffic, as the points in the store show it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack.domain.autoscaling import Decision, Rules, Scale, decide, reach_s, scale_of_json, scale_to_json
from dstack.domain.traffic import HEARD, History, Sums
from dstack.store.traffic import start_of, with_point

RULES = Rules("rps", target=10, minimum=1, maximum=8, up_delay_s=300, down_delay_s=600, window_s=60)
BEGIN_S = datetime(2026, 3, 2, 8, 3, 7, tzinfo=UTC).timestamp()
DAY_S = 86_400.0
LATENCY_S = 2

Rate = Callable[[int], float]


def history_of(
    rate: Rate, seconds: int, begin_s: float = BEGIN_S, held: int = 0, latency_s: int = LATENCY_S
) -> History:
    """Return the points that the store has of a data plane, which reports each second while it has requests."""
    points: list[Sums] = []
    row_at = None
    arrived = ended = 0.0
    began: list[float] = []
    for second in range(seconds + 1):
        arrived += rate(second)
        began.append(arrived)
        ended_before, ended = ended, began[second - latency_s] if second >= latency_s else 0.0
        in_flight = int(arrived) - int(ended)
        if not in_flight and int(ended) == int(ended_before):
            continue
        sums = Sums(begin_s + second, int(ended), 0, in_flight, (), held)
        if start_of(sums.at) != row_at:
            row_at = start_of(sums.at)
            before = points[-1] if points else Sums(0)
            points += [replace(before, at=row_at.timestamp(), in_flight=0, held=0), sums]
        else:
            points = with_point(points, sums)
    return points


def time_of(seconds: float) -> datetime:
    return datetime.fromtimestamp(BEGIN_S + seconds, UTC)


def decided(
    history: History | Sequence[History], seconds: float, asked: int = 1, age_s: float = DAY_S, rules: Rules = RULES
) -> Decision:
    """Return a decision some seconds after the begin of the traffic."""
    histories = [history] if history and isinstance(history[0], Sums) else history
    return decide(rules, Scale(asked, time_of(seconds - age_s), "as before"), histories, time_of(seconds))  # type: ignore[arg-type]


def steady(rate: float, seconds: int = 1200, **more: int) -> History:
    return history_of(lambda _: rate, seconds, **more)


def test_replicas_carry_the_mean_rate_of_the_window() -> None:
    decision = decided(steady(27.4), 1200, asked=2)
    assert (decision.asked, decision.why) == (3, "27.4 requests/s, target 10 each")
    assert decided(steady(27.4), 1200, asked=3) == Decision(3, "as before", 600)


def test_a_row_of_the_store_that_begins_changes_no_rate() -> None:
    begins_s = [at for at in range(1200) if (BEGIN_S + at) % 600 == 0]
    assert len(begins_s) == 2
    for second in range(begins_s[-1], begins_s[-1] + 90):
        assert decided(steady(27.4, second, latency_s=30), second, asked=3).asked == 3


def test_points_of_uneven_times_give_the_same_rate() -> None:
    history = [sums for number, sums in enumerate(steady(20.0)) if number % 5 not in (1, 2)]
    for second in range(1185, 1201):
        assert decided([one for one in history if one.at <= BEGIN_S + second], second, asked=2).asked == 2


def test_a_load_within_the_tolerance_needs_no_other_replica() -> None:
    assert decided(steady(21.5), 1200, asked=2).asked == 2
    assert decided(steady(22.5), 1200, asked=2).asked == 3
    assert decided(steady(1.0), 1200, asked=1).asked == 1


def test_replicas_are_added_a_delay_after_the_last_change() -> None:
    early = decided(steady(25), 1200, asked=2, age_s=250)
    assert (early.asked, early.why, early.again_s) == (2, "as before", 50)
    assert decided(steady(25), 1200, asked=2, age_s=300).asked == 3


def test_a_second_of_less_traffic_does_not_begin_the_delay_again() -> None:
    history = history_of(lambda second: 0 if second == 1190 else 25, 1200)
    assert decided(history, 1200, asked=2, age_s=300).asked == 3


def test_a_burst_adds_replicas_without_a_delay() -> None:
    history = history_of(lambda second: 60 if second > 1185 else 10, 1200)
    decision = decided(history, 1200, asked=1, age_s=5)
    assert decision.asked == 5 and decision.why.endswith("requests/s, target 10 each")


def test_chance_is_not_a_burst() -> None:
    rules = replace(RULES, target=1)
    history = history_of(lambda second: 1.8 if second > 1185 else 0.9, 1200)
    assert decided(history, 1200, asked=1, age_s=5, rules=rules).asked == 1


def test_held_requests_start_a_first_replica_at_once() -> None:
    decision = decided(history_of(lambda second: 1 if second < 3 else 0, 3, held=3), 3, 0, 5, replace(RULES, minimum=0))
    assert (decision.asked, decision.why) == (1, "3 requests wait for a replica")
    alone = decided(history_of(lambda second: 1 if second == 3 else 0, 3, held=1), 3, 0, 5, replace(RULES, minimum=0))
    assert (alone.asked, alone.why) == (1, "1 request waits for a replica")


def test_many_held_requests_start_enough_replicas_to_work_them_off() -> None:
    history = steady(10, 240, held=2400, latency_s=300)
    assert decided(history, 240, asked=1, age_s=240).asked == 3


def test_requests_that_pile_up_at_replicas_add_some_without_a_delay() -> None:
    """Of 24 requests a second, 18 are answered, for the last four minutes."""
    ended, in_flight = 1200 * 24 - 48, 48
    history = list(steady(24))
    for second in range(1205, 1440, 10):
        ended, in_flight = ended + 180, in_flight + 60
        history.append(Sums(BEGIN_S + second, ended, 0, in_flight))
    decision = decided(history, 1436, asked=3, age_s=100)
    assert decision.asked == 4
    assert decision.why == "24.0 requests/s and 1453 that wait, target 10 each"


def test_long_streams_that_become_more_add_at_most_as_much_as_their_arrivals() -> None:
    """Of three that begin in four seconds, one ends."""
    points = [Sums(BEGIN_S + second, second // 4, 0, 60 + second // 2) for second in range(0, 1200, 10)]
    assert decided(points, 1190, asked=1, rules=replace(RULES, target=1)).asked == 2


def test_replicas_are_never_more_than_the_maximum() -> None:
    decision = decided(steady(500, held=9999), 1200, asked=2)
    assert decision.asked == 8
    assert decided(steady(500, held=9999), 1200, asked=8).asked == 8


def test_replicas_are_removed_when_the_load_of_the_delay_needs_fewer() -> None:
    history = history_of(lambda second: 38 if second < 600 else 15, 1400)
    waiting = decided(history, 1190, asked=4)
    assert waiting.asked == 4 and waiting.again_s == pytest.approx(13, abs=1)
    decision = decided(history, 1265, asked=4)
    assert (decision.asked, decision.why) == (2, "15.0 requests/s, target 10 each")


def test_replicas_are_removed_in_one_step_when_a_spike_has_ended() -> None:
    history = history_of(lambda second: 78 if second < 600 else 15, 1400)
    changes = (decided(history[: len(history) - 20], second, asked=8).asked for second in range(1180, 1300))
    assert next(asked for asked in changes if asked != 8) == 2


def test_replicas_are_removed_a_delay_after_the_last_change() -> None:
    assert decided(steady(15), 1200, asked=4, age_s=500) == Decision(4, "as before", 100)
    assert decided(steady(15), 1200, asked=4, age_s=600).asked == 2


def test_a_burst_that_ended_counts_for_the_delay_only() -> None:
    history = history_of(lambda second: 70 if 600 <= second < 620 else 10, 1400)
    assert decided(history, 1300, asked=7, age_s=690).asked == 1


def test_a_service_goes_to_zero_a_delay_after_its_last_request() -> None:
    rules = replace(RULES, minimum=0)
    history = history_of(lambda second: 1 if second < 60 else 0, 70)
    last = history[-1].at - BEGIN_S
    early = decided(history, last + 599, asked=1, rules=rules)
    assert early == Decision(1, "as before", 1)
    late = decided(history, last + 600, asked=1, rules=rules)
    assert late == Decision(0, "no requests for 10m", None)
    assert decided([], 0, asked=3).asked == 1


@pytest.mark.parametrize("rate", [0.02, 0.5, 9, 25])
def test_a_minimum_that_is_lowered_to_zero_under_traffic_keeps_replicas(rate: float) -> None:
    history = steady(rate, 3000)
    for second in range(2400, 3000, 7):
        past = [one for one in history if one.at <= BEGIN_S + second]
        assert decided(past, second, asked=3, rules=replace(RULES, minimum=0)).asked >= 1


def test_a_stream_alone_keeps_a_replica() -> None:
    history = [*steady(0, 0), *(Sums(BEGIN_S + second, 0, 0, 1) for second in range(0, 2000, 10))]
    assert decided(history, 1990, asked=2, rules=replace(RULES, minimum=0)).asked == 1


def test_a_range_that_was_changed_is_obeyed_at_once() -> None:
    raised = decided(steady(5), 1200, asked=1, age_s=1, rules=replace(RULES, minimum=2))
    assert (raised.asked, raised.why) == (2, "at least 2 by the configuration")
    lowered = decided(steady(75), 1200, asked=8, age_s=1, rules=replace(RULES, maximum=3))
    assert (lowered.asked, lowered.why) == (3, "at most 3 by the configuration")


def test_concurrency_counts_requests_in_flight() -> None:
    rules = replace(RULES, metric="concurrency", target=8)
    decision = decided(steady(20.5), 1200, asked=5, rules=rules)
    assert (decision.asked, decision.why) == (5, "as before")
    up = decided(steady(20.5), 1200, asked=3, rules=rules)
    assert (up.asked, up.why) == (5, "41 in flight, target 8 each")


def test_concurrency_never_falls_below_what_running_requests_need() -> None:
    rules = replace(RULES, metric="concurrency", target=8, down_delay_s=0)
    history = [Sums(BEGIN_S), Sums(BEGIN_S + 1190, 100), Sums(BEGIN_S + 1200, 100, 0, 30)]
    assert decided(history, 1200, asked=7, rules=rules).asked == 4


def test_a_data_plane_that_restarts_changes_nothing() -> None:
    """Its requests are lost, and their clients send them again."""
    for metric, target in (("rps", 10), ("concurrency", 100)):
        rules = replace(RULES, metric=metric, target=target)
        before = steady(20, 1200, latency_s=10)
        for second in range(1, 120):
            again = history_of(lambda at: 220 if at == 0 else 20, second, BEGIN_S + 1202, latency_s=10)
            decision = decided([before, again], 1202 + second, asked=2, rules=rules)
            assert decision.asked == 2, (metric, second)


def test_a_server_that_was_away_changes_nothing() -> None:
    """Its data plane served on, and reports all at once."""
    history = [one for one in steady(20, 1400) if not 1100 < one.at - BEGIN_S < 1390]
    for second in range(1390, 1401):
        assert decided([one for one in history if one.at <= BEGIN_S + second], second, asked=2).asked == 2


def test_a_data_plane_that_is_silent_has_no_requests_in_flight() -> None:
    history = steady(5, 1200, held=5)
    decision = decided(history, 1200 + HEARD.total_seconds() + 601, asked=2, rules=replace(RULES, minimum=0))
    assert decision.asked == 0


@pytest.mark.parametrize("hours", [-30 * 24, -2, -0.5, 0.5, 2, 30 * 24])
def test_a_clock_that_jumps_does_not_stop_a_service_under_traffic(hours: float) -> None:
    """New points have the new time; those of a clock that went back have the latest one that is known."""
    rules = replace(RULES, minimum=0)
    history = list(steady(20, 1200))
    now_s = 1200 + hours * 3600
    last = history[-1]
    for second in range(1, 60):
        at = max(last.at, BEGIN_S + now_s + second)
        history = with_point(history, Sums(at, last.requests + 20 * second, 0, 40))
        decision = decide(rules, Scale(2, time_of(900)), [history], time_of(now_s + second))
        assert 1 <= decision.asked <= 3


def test_a_report_of_a_far_future_does_not_keep_a_replica() -> None:
    history = [*history_of(lambda second: 1 if second < 60 else 0, 70), Sums(BEGIN_S + 30 * DAY_S, 80)]
    assert decided(history, 700, asked=1, rules=replace(RULES, minimum=0)).asked == 0


def test_a_decision_of_the_future_holds_nothing_up() -> None:
    assert decided(steady(25), 1200, asked=2, age_s=-3600).asked == 3
    assert decided(steady(15), 1200, asked=4, age_s=-3600).asked == 2
    assert decided(steady(25), 1200, asked=2, age_s=-2).asked == 2


def test_points_of_the_reach_are_enough() -> None:
    history = history_of(lambda second: 38 if second < 1000 else 15, 1500, latency_s=100)
    for second in range(1400, 1501, 10):
        past = [one for one in history if one.at <= BEGIN_S + second]
        cut = [one for one in past if one.at >= start_of(BEGIN_S + second - reach_s(RULES)).timestamp()]
        assert decided(cut, second, asked=4) == decided(past, second, asked=4)


def test_a_decision_comes_back_from_a_column() -> None:
    scale = Scale(2, time_of(0), "27.4 requests/s, target 10 each")
    assert scale_of_json(scale_to_json(scale)) == scale
    assert scale_of_json(scale_to_json(None)) is None


RATES = st.lists(st.integers(0, 60), min_size=1, max_size=12)
DELAYS = st.sampled_from([0, 60, 300, 600, 1200])
RULE_SETS = st.builds(
    Rules,
    metric=st.sampled_from(["rps", "concurrency"]),
    target=st.sampled_from([0.5, 3, 10]),
    minimum=st.integers(0, 2),
    maximum=st.integers(3, 9),
    up_delay_s=DELAYS,
    down_delay_s=DELAYS,
    window_s=st.sampled_from([10, 30, 60]),
)


def past_of(rates: Sequence[int], held: int) -> tuple[History, float]:
    """Return the points of traffic whose rate changes every two minutes, and the seconds that they cover."""
    seconds = 120 * len(rates)
    return history_of(lambda second: rates[min(second // 120, len(rates) - 1)], seconds, held=held), seconds


@settings(max_examples=60, deadline=None)
@given(rules=RULE_SETS, rates=RATES, held=st.integers(0, 50), asked=st.integers(0, 12), age_s=st.integers(-4000, 4000))
def test_a_decision_is_within_the_range_and_stands(
    rules: Rules, rates: list[int], held: int, asked: int, age_s: int
) -> None:
    history, seconds = past_of(rates, held)
    first = decided(history, seconds, asked, age_s, rules)
    assert rules.minimum <= first.asked <= rules.maximum
    assert first.asked >= 1 or not rates[-1]
    assert first.again_s is None or first.again_s >= 1
    if first.asked != asked:
        again = decide(rules, Scale(first.asked, time_of(seconds), first.why), [history], time_of(seconds))
        assert again == first
    shorter = history[1:] if asked % 2 else []
    decided([history, shorter, [Sums(BEGIN_S + age_s, 5, 0, 5, held=1)]], seconds, asked, age_s, rules)


@settings(max_examples=60, deadline=None)
@given(rules=RULE_SETS, rates=RATES, asked=st.integers(0, 9), age_s=st.integers(0, 4000))
def test_looking_again_as_asked_leads_to_the_minimum_when_traffic_has_ended(
    rules: Rules, rates: list[int], asked: int, age_s: int
) -> None:
    history, _ = past_of([*rates, 0], held=0)
    ended = history[-1].at - BEGIN_S if history else 0.0
    scale, now, looks = Scale(asked, time_of(ended - age_s)), ended, 0
    while True:
        decision = decide(rules, scale, [history], time_of(now))
        if decision.asked != scale.asked:
            scale = Scale(decision.asked, time_of(now), decision.why)
        if decision.again_s is None:
            break
        now, looks = now + decision.again_s, looks + 1
        assert looks < 100
    assert scale.asked == rules.minimum
    assert now - ended <= rules.down_delay_s + 61 or rules.minimum == asked
