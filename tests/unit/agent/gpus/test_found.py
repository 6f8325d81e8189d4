"""All cards of a host together, and drivers that hang or fail."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from dstack.agent.gpus import found
from dstack.agent.gpus.asking import Asking
from dstack.agent.gpus.cards import Card, Cards, Reading, Vendor
from dstack.agent.gpus.found import Finder
from dstack.agent.gpus.usage import GpuUsage, read_gpu_usage
from dstack.errors import AgentRefused
from dstack.protocol.agent import Gpu
from tests.patience import PATIENCE_S


class Made(Vendor):
    """Cards of a made-up vendor, whose driver can be broken."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.answers = threading.Event()
        self.answers.set()
        self.problem: Exception | None = None
        self.asked = 0

    def _ask(self) -> None:
        self.asked += 1
        self.answers.wait()
        if self.problem is not None:
            raise self.problem

    def cards(self) -> list[Card]:
        self._ask()
        return [Card(Gpu(self.name, "x", 1), number) for number in range(self.count)]

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        return {self.name: f"{','.join(names)} of {there}"}

    def read(self, card: Card) -> Reading:
        self._ask()
        return float(card.number), None


@pytest.fixture
def hanging() -> Iterator[Made]:
    """A vendor whose driver does not answer any more once its event is cleared."""
    vendor = Made("b", 1)
    yield vendor
    vendor.answers.set()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "DETECTION_TIMEOUT_S", 0.05)
    monkeypatch.setattr(found, "READING_TIMEOUT_S", 0.05)


def test_a_card_has_one_index_among_those_of_all_vendors() -> None:
    cards = Finder(Made("a", 2), Made("b", 1)).cards()
    assert [gpu.vendor for gpu in cards.gpus] == ["a", "a", "b"]
    assert cards.visible([2, 1]) == {"a": "1 of 2", "b": "0 of 1"}
    assert cards.visible([0]) == {"a": "0 of 2", "b": " of 1"}


@pytest.mark.parametrize(("index", "has"), [(2, "2 GPUs to be found"), (-1, "2 GPUs to be found")])
def test_a_card_that_is_not_there_is_refused(index: int, has: str) -> None:
    cards = Finder(Made("a", 2)).cards()
    for ask in (cards.visible, cards.grant):
        with pytest.raises(AgentRefused, match=f"the GPU number {index} of a machine with {has}"):
            ask([index])
    with pytest.raises(AgentRefused, match="number 0 of a machine with no GPUs to be found"):
        Cards().visible([0])


def test_a_driver_that_hangs_or_fails_takes_away_its_own_cards_only(hanging: Made) -> None:
    broken = Made("c", 1)
    broken.problem = ZeroDivisionError("a driver's surprise")
    hanging.answers.clear()
    finder = Finder(Made("a", 1), hanging, broken, Made("d", 1))
    assert [gpu.vendor for gpu in finder.look().gpus] == ["a", "d"]


def test_a_driver_that_hangs_is_not_asked_again_until_it_has_answered(hanging: Made) -> None:
    finder = Finder(hanging)
    hanging.answers.clear()
    assert [len(finder.look().gpus) for _ in range(3)] == [0, 0, 0]
    assert hanging.asked == 1, "no more than one thread hangs"
    hanging.answers.set()
    asking = finder._asking[hanging]
    while asking._hangs:
        threading.Event().wait(0.001)
    assert len(finder.look().gpus) == 1


def test_cards_stay_the_same_until_somebody_looks_again() -> None:
    vendor = Made("a", 1)
    finder = Finder(vendor)
    first = finder.cards()
    vendor.count = 2
    assert finder.cards() is first
    assert len(finder.look().gpus) == len(finder.cards().gpus) == 2


def test_what_a_hanging_driver_does_not_tell_is_not_known(hanging: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder(Made("a", 2), hanging)
    assert finder.read() == [(0, None), (1, None), (0, None)]
    hanging.answers.clear()
    monkeypatch.setattr(found, "read", finder.read)
    assert read_gpu_usage() == {0: GpuUsage(0, None), 1: GpuUsage(1, None), 2: GpuUsage(None, None)}


def test_questions_wait_for_each_other() -> None:
    asking, inside = Asking("x"), threading.Semaphore(1)

    def alone() -> bool:
        return inside.acquire(blocking=False) and inside.release() is None

    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asking.ask(alone, False, timeout_s=PATIENCE_S)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 20
