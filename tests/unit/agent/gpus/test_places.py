"""A GPU's number means the same card to the next agent, while jobs may hold it."""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dstack.agent.gpus import found
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


def out_of_room(path: Path, value: Mapping[str, object], *, durable: bool) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where an agent has written down the places of three cards."""
    file = tmp_path / "cards.json"
    agent(file, "a", "b", "c", hold=False)
    return file


def test_numbers_go_on_meaning_the_same_cards_when_one_fails(file: Path) -> None:
    cards = agent(file, "b", "c").cards()
    assert [(gpu.name, gpu.gone) for gpu in cards.gpus] == [("Xa", True), ("Xb", False), ("Xc", False)]
    assert cards.visible([1]) == {"VISIBLE": "0"}, "programs count the cards that work"
    assert cards.grant([2], privileged=True).env == {"VISIBLE": "c"}


@pytest.mark.parametrize("privileged", [False, True])
def test_a_card_that_is_gone_is_refused_and_is_welcome_back(file: Path, privileged: bool) -> None:
    finder = agent(file, "b", "c")
    for ask in (finder.cards().visible, lambda own: finder.cards().grant(own, privileged=privileged)):
        with pytest.raises(AgentRefused, match="A GPU of the job is no longer found"):
            ask([0, 1])
    assert finder.read() == [(None, None)] * 3
    back = agent(file, "c", "b", "a").cards()
    assert (back.visible([0]), [gpu.gone for gpu in back.gpus]) == ({"VISIBLE": "2"}, [False] * 3)


def test_a_new_card_has_the_next_number(file: Path) -> None:
    cards = agent(file, "new", "b", "c").cards()
    assert [gpu.name for gpu in cards.gpus] == ["Xa", "Xb", "Xc", "Xnew"]
    assert [gpu.name for gpu in agent(file, "c").cards().gpus] == ["Xa", "Xb", "Xc", "Xnew"]


def test_where_no_job_is_left_the_cards_that_work_are_counted_anew(file: Path) -> None:
    assert [gpu.name for gpu in agent(file, "b", "c", hold=False).cards().gpus] == ["Xb", "Xc"]


def test_places_that_found_no_room_on_the_disk_are_not_taken_for_the_ones_before(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a job that was given the number 0 would share its card with one that is given the number 1."""
    with monkeypatch.context() as full:
        full.setattr(found, "write_json", out_of_room)
        assert agent(file, "b", "c", hold=False).cards().visible([0]) == {"VISIBLE": "0"}
    cards = agent(file, "b", "c").cards()
    assert ([gpu.name for gpu in cards.gpus], cards.visible([0])) == (["Xb", "Xc"], {"VISIBLE": "0"})


def test_places_that_are_held_stay_written_down_on_a_full_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(found, "write_json", out_of_room)
        agent(file, "b", "c", "new")
    assert [gpu.name for gpu in agent(file, "c", "new").cards().gpus] == ["Xa", "Xb", "Xc", "Xnew"]


def test_numbers_go_on_meaning_the_same_cards_when_an_agent_looks_again(tmp_path: Path) -> None:
    vendor = Made("a", "b")
    finder = Finder(vendor)
    finder.keep_places(tmp_path / "cards.json", hold=False)
    finder.look()
    vendor.ids = ("b",)
    assert [gpu.name for gpu in finder.look().gpus] == ["Xa", "Xb"]


def test_a_file_that_is_not_understood_costs_the_numbers_alone(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text('{"places": [{"name": "a"}]}')
    assert [gpu.name for gpu in agent(file, "b").cards().gpus] == ["Xb"]
    assert f"{file} is damaged, and taken for lost" in caplog.text
