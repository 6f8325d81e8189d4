"""The readiness of a replica: decided from the answers of its probes, without any server."""

from hypothesis import given
from hypothesis import strategies as st

from dstack.agent.serving.probes import PORT, Readiness
from dstack.agent.serving.wrong_ports import IDLE_CORES, WAITS_FOR_S, WrongPort
from dstack.protocol.agent import Probe

PROBE = Probe(interval_s=1.0)


def test_failing_probe_looks_again_soon_and_ever_later_up_to_its_interval() -> None:
    readiness, pauses = Readiness([PROBE]), []
    for _ in range(7):
        pauses.append(readiness.pause_s(0))
        readiness.took(0, "503")
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    readiness.took(0, "")
    assert (readiness.is_ready, readiness.reason, readiness.pause_s(0)) == (True, "", 1.0)
    readiness.took(0, "503")
    assert (readiness.is_ready, readiness.reason, readiness.pause_s(0)) == (False, "503", 0.05), "it looks soon again"


def test_successes_of_a_slow_start_are_counted_at_the_interval() -> None:
    readiness = Readiness([Probe("/", ready_after=2, interval_s=3.0)])
    readiness.took(0, "")
    assert (readiness.is_ready, readiness.pause_s(0)) == (False, 3.0)
    assert readiness.reason == "`GET /` has succeeded 1 of 2 times in a row"
    readiness.took(0, "")
    assert readiness.is_ready


@given(ready_after=st.integers(1, 4), answers=st.lists(st.booleans()))
def test_replica_is_ready_while_its_latest_answers_in_a_row_are_enough_successes(
    ready_after: int, answers: list[bool]
) -> None:
    readiness = Readiness([Probe(ready_after=ready_after)])
    for number, is_success in enumerate(answers, 1):
        readiness.took(0, "" if is_success else "no")
        latest = answers[max(0, number - ready_after) : number]
        assert readiness.is_ready == (len(latest) == ready_after and all(latest))
        assert bool(readiness.reason) == (not readiness.is_ready)


def test_replica_is_ready_while_all_of_its_probes_pass() -> None:
    readiness = Readiness([PROBE, PROBE])
    readiness.took(0, "")
    assert not readiness.is_ready
    readiness.took(1, "first")
    assert readiness.reason == "first"
    readiness.took(1, "")
    assert readiness.is_ready
    readiness.took(0, "second")
    assert (readiness.is_ready, readiness.reason) == (False, "second")


def test_probe_until_ready_ends_once_the_replica_is_ready_and_takes_it_out_no_more() -> None:
    readiness = Readiness([Probe(until_ready=True), PROBE])
    readiness.took(0, "")
    assert readiness.pause_s(0) is not None, "the replica is not ready yet"
    readiness.took(1, "")
    assert readiness.pause_s(0) is None and readiness.is_ready
    readiness.took(1, "no")
    readiness.took(1, "")
    assert readiness.pause_s(0) is None and readiness.is_ready


def test_ready_replica_of_an_earlier_agent_stays_so_until_a_probe_fails() -> None:
    readiness = Readiness([PROBE, PROBE], is_ready=True)
    readiness.took(0, "")
    assert (readiness.is_ready, readiness.reason) == (True, "")
    readiness.took(1, "no")
    assert not readiness.is_ready
    assert Readiness([PORT], is_ready=True).pause_s(0) is None


class Watched:
    """A replica that listens where the test says, and uses as much of a processor."""

    def __init__(self) -> None:
        self.wrong = WrongPort(8000)
        self.now_s = self.cpu_s = 0.0

    def waits(self, *ports: int, cores: float = 0.0, for_s: float = WAITS_FOR_S) -> bool:
        """Let time pass, and return whether the replica has failed in it."""
        has_failed = self.wrong.took(self.now_s, ports, self.cpu_s)
        until_s = self.now_s + for_s
        while self.now_s < until_s and not has_failed:
            self.now_s += 5.0
            self.cpu_s += 5.0 * cores
            has_failed = self.wrong.took(self.now_s, ports, self.cpu_s)
        return has_failed


def test_replica_that_only_listens_elsewhere_and_idles_fails() -> None:
    assert Watched().waits(9000)
    assert not Watched().waits(9000, for_s=WAITS_FOR_S - 5)
    failed = Watched()
    assert failed.waits(9000, 9001)
    assert failed.wrong.hint == "it listens at `9000`, `9001`"
    assert failed.wrong.failure(80) == (
        "it listens at `9000`, `9001` and not at `$PORT`, which is 8000 (another job of the machine has 80): "
        "make the program listen at `$PORT`"
    )


def test_replica_that_works_or_opens_more_ports_or_its_own_does_not_fail() -> None:
    assert not Watched().waits(9000, 8000, for_s=200)
    assert not Watched().waits(for_s=200)
    assert not Watched().waits(9000, cores=10 * IDLE_CORES, for_s=200), "a model server that loads"
    changing = Watched()
    assert not any(changing.waits(*range(9000, 9000 + count), for_s=20) for count in range(1, 10))
    assert changing.waits(9000)


def test_replica_whose_work_is_not_seen_does_not_fail() -> None:
    wrong = WrongPort(8000)
    assert not any(wrong.took(now_s, [9000], None) for now_s in range(0, 200, 5))
