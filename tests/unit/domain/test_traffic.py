"""Rates, latencies and totals of a service, from the sums of several data planes."""

from dstack.domain.traffic import HEARD, STEP, Sums, course_of, quantile, traffic_of

QUIET = HEARD.total_seconds() + 1


def test_totals_are_those_of_all_data_planes_and_of_all_their_lives() -> None:
    ended = [Sums(0), Sums(100, 10, 1)]
    living = [Sums(100), Sums(105, 7, 2), Sums(110, 9, 2)]
    traffic = traffic_of([ended, living], now=110)
    assert (traffic.requests, traffic.errors) == (19, 3)


def test_rates_are_those_of_the_last_minute() -> None:
    history = [Sums(0, 1000, 100), Sums(40, 1000, 100), Sums(45, 1030, 103), Sums(90, 1060, 103)]
    traffic = traffic_of([history], now=100)
    assert (traffic.requests_per_s, traffic.errors_per_s) == (1.0, 0.05)
    assert traffic_of([history], now=1000).requests_per_s == 0


def test_sums_of_a_row_that_begins_later_hold_before_it() -> None:
    assert traffic_of([[Sums(600, 50), Sums(601, 53)]], now=620).requests_per_s == 3 / 60


def test_requests_of_a_silent_data_plane_are_no_longer_in_flight() -> None:
    assert traffic_of([[Sums(0, 1, 0, 3)], [Sums(0, 1, 0, 2)]], now=5).in_flight == 5
    assert traffic_of([[Sums(0, 1, 0, 3)], [Sums(0, 1, 0, 2)]], now=QUIET).in_flight == 0


def test_latencies_are_those_of_the_last_minute() -> None:
    slow, fast = (0,) * 13 + (5,), (3,) + (0,) * 12 + (5,)
    traffic = traffic_of([[Sums(0), Sums(10, 5, 0, 0, slow), Sums(100, 8, 0, 0, fast)]], now=100)
    assert traffic.latency_p95_s is not None and traffic.latency_p95_s <= 0.005
    assert traffic_of([[Sums(0)]], now=1).latency_p50_s is None


def test_quantile_lies_within_its_class() -> None:
    latencies = [0, 10, 0, 10] + [0] * 10
    assert quantile(latencies, 0.5) == 0.01 and quantile(latencies, 0.75) == 0.0375
    assert quantile(latencies, 1.0) == 0.05


def test_course_has_a_point_for_each_interval_and_counts_each_request_once() -> None:
    histories = [[Sums(0), Sums(3, 1), Sums(11, 4), Sums(12, 5)], [Sums(0), Sums(30, 2, 1)]]
    course = course_of(histories, begin=0, end=35)
    step_s = STEP.total_seconds()
    assert [point.at for point in course] == [10, 20, 30]
    assert [point.requests_per_s * step_s for point in course] == [1, 4, 2]
    assert [point.errors_per_s * step_s for point in course] == [0, 0, 1]


def test_course_has_the_greatest_number_of_requests_that_waited_in_each_interval() -> None:
    woken = [Sums(0), Sums(3, in_flight=5, held=5), Sums(8, 5), Sums(21, 5, in_flight=1, held=1), Sums(38, 6)]
    other = [Sums(0), Sums(4, in_flight=2, held=2), Sums(9, 2)]
    assert [point.held for point in course_of([woken, other], begin=0, end=50)] == [7, 0, 1, 1, 0]


def test_requests_of_a_silent_data_plane_no_longer_wait() -> None:
    course = course_of([[Sums(0), Sums(3, in_flight=1, held=1)]], begin=0, end=60)
    assert [point.held for point in course] == [1, 1, 1, 1, 0, 0]
