"""What is confidential of a job is kept until its start, and left nowhere behind, wherever an agent is killed."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.agent import admission, confidential
from dstack.agent.admission import accept
from dstack.agent.paths import Home, JobFolder, write_json
from dstack.agent.records import Ending, read_order
from dstack.agent.runtimes.base import write_down
from dstack.errors import AgentRefused
from dstack.protocol.agent import JobOrder, to_json

ORDER = JobOrder("0-job", "hello", "true", env={"PASSWORD": "secret"})


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    made.jobs.mkdir()
    yield made
    shutil.rmtree(confidential.memory_folder(tmp_path), ignore_errors=True)


@pytest.fixture
def folder(home: Home) -> JobFolder:
    made = home.job(ORDER.job_id)
    accept(made, ORDER)
    return made


def kept(home: Home) -> list[str]:
    return sorted(path.name for path in confidential.memory_folder(home.root).glob("*"))


def test_drafts_and_what_no_job_waits_for_are_swept(home: Home, folder: JobFolder) -> None:
    place = confidential.memory_folder(home.root)
    (place / ".0-job.json.4711").write_text("of an agent that was killed meanwhile")
    (place / "1-gone.json").write_text("of a job without a folder")
    (place / "1-gone.git").mkdir()
    (place / "0-job.git").mkdir()
    confidential.sweep(home)
    assert kept(home) == ["0-job.git", "0-job.json"]
    folder.pid.touch()
    confidential.sweep(home)
    assert not place.exists()


def test_a_place_of_another_user_is_not_swept(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    place = confidential.memory_folder(home.root)
    place.symlink_to(elsewhere)
    try:
        confidential.sweep(home)
        assert (elsewhere / "file").exists()
    finally:
        place.unlink()


def test_a_job_whose_environment_is_damaged_is_refused(home: Home, folder: JobFolder) -> None:
    confidential.check_kept(folder)
    (confidential.memory_folder(home.root) / "0-job.json").write_bytes(b"")
    with pytest.raises(AgentRefused, match="its environment"):
        confidential.check_kept(folder)


def test_an_order_of_an_earlier_agent_holds_its_environment_itself(home: Home) -> None:
    folder = home.job(ORDER.job_id)
    folder.root.mkdir()
    write_json(folder.order, to_json(ORDER))
    confidential.check_kept(folder)
    assert (order := read_order(folder)) is not None and order.env == ORDER.env


def test_what_a_repeated_start_has_kept_again_goes_with_the_end(home: Home, folder: JobFolder) -> None:
    ending = Ending("exited", 1.0, 0)
    assert write_down(folder, ending) == ending
    confidential.keep(folder, ORDER)
    assert write_down(folder, Ending("stopped", 2.0)) == ending
    assert kept(home) == []


def test_job_that_cannot_be_accepted_leaves_nothing_behind(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: dict[str, object]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(admission, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        accept(home.job(ORDER.job_id), ORDER)
    assert (kept(home), list(home.jobs.iterdir())) == ([], [])
