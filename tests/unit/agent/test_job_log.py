"""A job's log on its host: a file that the job itself may empty."""

import errno
import os
from pathlib import Path

import pytest

from dstack.agent import keeping
from dstack.agent.keeping import EMPTIED, JobLog
from dstack.agent.paths import JobFolder


@pytest.fixture
def job_log(tmp_path: Path) -> JobLog:
    (tmp_path / "job.log").touch()
    return JobLog(JobFolder(tmp_path), "job")


def append(job_log: JobLog, text: bytes) -> None:
    with open(job_log.path, "ab") as file:
        file.write(text)


def after(job_log: JobLog, offset: int) -> bytes:
    with open(job_log.path, "rb") as file:
        return os.pread(file.fileno(), 1 << 20, offset + job_log.shift)


def test_a_log_that_only_grows_stays_as_it_is(job_log: JobLog) -> None:
    for _ in range(3):
        append(job_log, b"line\n")
        job_log.look()
    assert (job_log.shift, job_log.first, after(job_log, 0)) == (0, 0, b"line\n" * 3)


@pytest.mark.parametrize("new", [b"", b"x\n", b"longer than it was before\n"])
def test_an_emptied_log_goes_on_with_all_that_is_new(job_log: JobLog, new: bytes) -> None:
    append(job_log, b"as it was\n")
    job_log.look()
    job_log.path.write_bytes(new)
    job_log.look()
    append(job_log, b"later\n")
    job_log.look()
    assert (job_log.first, after(job_log, 10)) == (10, EMPTIED + new + b"later\n")
    assert job_log.size() == 10 + len(EMPTIED + new + b"later\n")


def test_the_same_bytes_again_are_new_once_a_log_was_emptied(job_log: JobLog) -> None:
    append(job_log, b"as it was\n")
    job_log.look()
    for _ in range(3):
        job_log.path.write_bytes(b"same\n")
        job_log.look()
    assert after(job_log, job_log.first) == EMPTIED + b"same\n"
    assert job_log.first == 10 + 2 * len(EMPTIED + b"same\n")


def test_a_log_that_is_emptied_again_at_that_moment_goes_on_too(
    job_log: JobLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(job_log, b"as it was\n")
    job_log.look()
    job_log.path.write_bytes(b"one\n")
    with monkeypatch.context() as patched:
        patched.setattr(keeping.os, "ftruncate", lambda descriptor, size: job_log.path.write_bytes(b"two\n"))
        job_log.look()
    job_log.look()
    assert after(job_log, 10) == EMPTIED + b"two\n" + EMPTIED


def test_what_is_written_without_appending_is_added_as_it_comes(job_log: JobLog) -> None:
    append(job_log, b"as it was\n")
    job_log.look()
    with open(job_log.path, "wb", buffering=0) as in_its_own_place:
        for part in (b"one\n", b"two\n", b"three\n"):
            in_its_own_place.write(part)
            job_log.look()
    append(job_log, b"later\n")
    assert after(job_log, 10) == EMPTIED + b"one\ntwo\nthree\nlater\n"


def test_the_next_agent_knows_where_an_emptied_log_is(job_log: JobLog, tmp_path: Path) -> None:
    append(job_log, b"as it was\n")
    job_log.look()
    job_log.path.write_bytes(b"new\n")
    job_log.look()
    again = JobLog(JobFolder(tmp_path), "job")
    again.look()
    assert (again.first, again.size(), after(again, 10)) == (10, job_log.size(), EMPTIED + b"new\n")


def test_what_was_given_back_is_not_taken_for_emptied(job_log: JobLog) -> None:
    append(job_log, b"0123456789" * 10)
    job_log.look()
    job_log.acknowledged = 70
    job_log.give_up(70)
    job_log.look()
    assert (job_log.first, job_log.shift, after(job_log, 70)) == (70, 0, b"0123456789" * 3)


def test_a_place_that_the_server_has_and_the_file_has_not_tells_that_it_was_emptied(job_log: JobLog) -> None:
    append(job_log, b"new\n")
    job_log.acknowledged = 1000
    job_log.look()
    assert (job_log.first, after(job_log, 1000)) == (1000, EMPTIED + b"new\n")


def test_a_full_disk_is_told_and_the_log_goes_on(
    job_log: JobLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append(job_log, b"as it was\n")
    job_log.look()
    job_log.path.write_bytes(b"new\n")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keeping.os, "write", full)
        job_log.look()
    append(job_log, b"later\n")
    job_log.look()
    assert after(job_log, 10) == b"later\n"
    assert caplog.text.count("The disk is full") == 2
