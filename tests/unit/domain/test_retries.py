from datetime import timedelta

import pytest

from dstack.domain.reasons import retry_event_of
from dstack.domain.retries import FIRST_DELAY, LONGEST_DELAY, RAN_WELL, RetryPolicy, failing_since, retry_at
from dstack.protocol.statuses import JobReason
from tests.making import NOW

ALL = RetryPolicy({"no-capacity", "interruption", "error"}, timedelta(hours=1))


@pytest.mark.parametrize(
    "reason, event",
    [
        (JobReason.NO_CAPACITY, "no-capacity"),
        (JobReason.INTERRUPTED, "interruption"),
        (JobReason.INSTANCE_UNREACHABLE, "interruption"),
        (JobReason.CONTAINER_EXITED_WITH_ERROR, "error"),
        (JobReason.EXECUTOR_ERROR, "error"),
        (JobReason.CREATING_CONTAINER_ERROR, "error"),
        (JobReason.START_TIMEOUT, "error"),
        (JobReason.VOLUME_ERROR, "error"),
        (JobReason.PORTS_BINDING_FAILED, "error"),
        (JobReason.EXITED, None),
        (JobReason.STOPPED_BY_USER, None),
        (JobReason.ABORTED_BY_USER, None),
        (JobReason.MAX_DURATION_EXCEEDED, None),
        (JobReason.SCALED_DOWN, None),
        (JobReason.INACTIVITY, None),
        (JobReason.UTILIZATION, None),
        (JobReason.SERVER, None),
    ],
)
def test_each_reason_is_one_event_or_none_and_is_retried_only_by_a_policy_that_names_it(
    reason: JobReason, event: str | None
) -> None:
    assert retry_event_of(reason) == event
    for named in ("no-capacity", "interruption", "error"):
        at = retry_at(RetryPolicy({named}, None), reason, since=NOW, now=NOW)
        assert (at is not None) == (named == event)
    assert retry_at(None, reason, since=NOW, now=NOW) is None


def test_start_that_failed_for_the_hosts_reasons_is_tried_again_without_a_policy_but_not_for_ever() -> None:
    now, tries = NOW, 1
    while (at := retry_at(None, JobReason.HOST_ERROR, since=NOW, now=now)) is not None:
        now, tries = at, tries + 1
    assert (now - NOW, tries) == (timedelta(seconds=160), 7)
    longer = RetryPolicy({"error"}, timedelta(hours=1))
    assert retry_at(longer, JobReason.HOST_ERROR, since=NOW, now=NOW + timedelta(minutes=10)) is not None
    assert retry_at(RetryPolicy({"error"}, None), JobReason.HOST_ERROR, since=NOW, now=NOW) is not None


def test_the_delay_doubles_up_to_ten_minutes() -> None:
    now, delays = NOW, []
    for _ in range(10):
        at = retry_at(RetryPolicy({"error"}, None), JobReason.EXECUTOR_ERROR, since=NOW, now=now)
        assert at is not None
        delays.append((at - now).total_seconds())
        now = at
    assert delays == [5, 5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert (FIRST_DELAY.total_seconds(), LONGEST_DELAY.total_seconds()) == (5, 600)


@pytest.mark.parametrize(
    "minutes, is_tried", [(0, True), (20, True), (50, True), (51, False), (60, False), (600, False)]
)
def test_what_fails_in_vain_is_given_up_after_the_duration(minutes: int, is_tried: bool) -> None:
    at = retry_at(ALL, JobReason.NO_CAPACITY, since=NOW, now=NOW + timedelta(minutes=minutes))
    assert (at is not None) == is_tried


def test_an_attempt_that_ran_well_starts_the_count_anew() -> None:
    began = NOW - timedelta(hours=8)
    assert failing_since(None, None, NOW) == NOW
    assert failing_since(began, None, NOW) == began, "it never ran"
    assert failing_since(began, NOW - timedelta(minutes=1), NOW) == began, "it failed as before"
    assert failing_since(began, NOW - RAN_WELL, NOW) == NOW
