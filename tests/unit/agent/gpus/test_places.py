"""A GPU's number means the same card to the next agent, while jobs may hold it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from dstack.agent.gpus.cards import Card, Vendor
from dstack.agent.gpus.found import Finder
from dstack.errors import AgentRefused
from dstack.protocol.agent import Gpu


class Made(Vendor):
    """Cards of a made-up vendor, which counts those that work."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    def cards(self) -> list[Card]:
        return [Card(Gpu("made", f"X{id}", 1), number, id) for number, id in enumerate(self.ids)]

    def visible(self, names: Sequence[str], there: int) -> dict[str, str]:
        return {"VISIBLE": ",".join(names)}


def agent(file: Path, *ids: str, hold: bool = True) -> Finder:
    """The finder of an agent that starts on a host with these cards."""
    finder = Finder(Made(*ids))
    finder.keep_places(file, hold=hold)
    finder.look()
    return finder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where an agent has written down the places of three cards."""
    file = tmp_path / "cards.json"
    agent(file, "a", "b", "c", hold=False)
    return file


def test_numbers_go_on_meaning_the_same_cards_when_one_fails(file: Path) -> None:
    cards = agent(file, "b", "c").cards()
    assert [gpu.name for gpu in cards.gpus] == ["Xa", "Xb", "Xc"]
    assert cards.visible([1]) == {"VISIBLE": "0"}, "programs count the cards that work"
    assert cards.grant([2], privileged=True).env == {"VISIBLE": "c"}


@pytest.mark.parametrize("privileged", [False, True])
def test_a_card_that_is_gone_is_refused_and_is_welcome_back(file: Path, privileged: bool) -> None:
    finder = agent(file, "b", "c")
    for ask in (finder.cards().visible, lambda own: finder.cards().grant(own, privileged=privileged)):
        with pytest.raises(AgentRefused, match="A GPU that was given to the job is not to be found any more"):
            ask([0, 1])
    assert finder.read() == [(None, None)] * 3
    assert agent(file, "c", "b", "a").cards().visible([0]) == {"VISIBLE": "2"}


def test_a_new_card_has_the_next_number(file: Path) -> None:
    cards = agent(file, "new", "b", "c").cards()
    assert [gpu.name for gpu in cards.gpus] == ["Xa", "Xb", "Xc", "Xnew"]
    assert [gpu.name for gpu in agent(file, "c").cards().gpus] == ["Xa", "Xb", "Xc", "Xnew"]


def test_where_no_job_is_left_the_cards_that_work_are_counted_anew(file: Path) -> None:
    assert [gpu.name for gpu in agent(file, "b", "c", hold=False).cards().gpus] == ["Xb", "Xc"]


def test_a_file_that_is_not_understood_costs_the_numbers_alone(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text('{"places": [{"name": "a"}]}')
    assert [gpu.name for gpu in agent(file, "b").cards().gpus] == ["Xb"]
    assert "Which card had which number is not known any more: 'gpu'" in caplog.text
