"""What becomes of an answer that comes too late, or nearly so."""

from queue import Empty, SimpleQueue

import pytest

from dstack.agent.gpus import asking
from dstack.agent.gpus.asking import Asking
from tests.patience import PATIENCE_S


class JustTooLate(SimpleQueue[str]):
    """Whoever waits here gives up in the moment in which the answer comes."""

    def get(self, block: bool = True, timeout: float | None = None) -> str:
        self.put(super().get(timeout=timeout))
        raise Empty


def test_a_driver_that_answers_in_the_last_moment_is_heard_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Asking("the card")
    with monkeypatch.context() as patch:
        patch.setattr(asking, "SimpleQueue", JustTooLate)
        assert driver.ask(lambda: "busy", "unknown", timeout_s=PATIENCE_S) == "busy"
    assert driver.ask(lambda: "idle", "unknown", timeout_s=PATIENCE_S) == "idle"
