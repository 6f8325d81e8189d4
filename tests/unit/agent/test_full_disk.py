"""A full disk: small files that must be written have their room."""

import errno
import os
from pathlib import Path

import pytest

from dstack.agent import endings, full_disk, supervisor
from dstack.agent.output import make_pipe
from dstack.agent.paths import JobFolder, read_json, write_json
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import JobOrder


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that has room, on a disk where no other file can be made."""

    def no_room(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return as_ever(path, flags, mode)

    full_disk.set_aside(tmp_path / "stop.json", again=True)
    as_ever = os.open
    monkeypatch.setattr(os, "open", no_room)
    return tmp_path / "stop.json"


def test_a_file_that_has_room_is_written_as_often_as_needed(file: Path) -> None:
    for grace_s in (600.25, 10, 0, 7, 3600.125):
        write_json(file, {"grace_s": grace_s})
        assert read_json(file, dict) == {"grace_s": grace_s}


def test_who_reads_a_file_while_it_is_written_sees_a_whole_one(file: Path) -> None:
    write_json(file, {"grace_s": 600.25})
    with open(file) as reader:
        write_json(file, {"grace_s": 0})
        assert reader.read().strip() == '{"grace_s": 600.25}'


def test_a_file_that_was_written_before_the_disk_was_full_is_replaced_more_than_once(file: Path) -> None:
    file.write_text('{"grace_s": 600}')
    for grace_s in (10, 0):
        write_json(file, {"grace_s": grace_s})
        assert read_json(file, dict) == {"grace_s": grace_s}


def test_a_file_without_room_is_refused(file: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_json(file.with_name("order.json"), {})
    with pytest.raises(OSError, match="No space left"):
        write_json(file, {"text": "x" * full_disk.ROOM_BYTES})
    assert read_json(file, dict) is None


@pytest.mark.parametrize(("free_bytes_min", "end"), [(0, "start_failed"), (1 << 62, "host_failed")])
def test_supervisor_tells_a_full_disk_from_files_too_large_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes_min: int, end: str
) -> None:
    def launch(folder: JobFolder, order: JobOrder) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supervisor, "launch", launch)
    monkeypatch.setattr(endings, "FREE_BYTES_MIN", free_bytes_min)
    folder = JobFolder(tmp_path)
    folder.log("job").touch()
    make_pipe(folder)
    ending = supervisor._Supervisor(folder, JobOrder("0-job", "hello", "true"), SystemClock()).run()
    assert (ending.end, ending.message[:32]) == (end, "The machine's disk for job files")
