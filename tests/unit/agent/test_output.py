"""What a job prints comes into its log whole, in order and once, whoever is killed and however full the disk is."""

import errno
import os
import random
import signal
from pathlib import Path

import pytest

from dstack.agent import output
from dstack.agent.output import Output, empty_pipe, holding_pipe, lost_in_words, make_pipe, waiting_bytes
from dstack.agent.paths import JobFolder
from tests.printing import numbered


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = JobFolder(tmp_path)
    made.log("job").touch()
    make_pipe(made)
    return made


def prints(folder: JobFolder, text: bytes) -> None:
    with open(folder.pipe, "wb", buffering=0) as pipe:
        pipe.write(text)


def full(*args: object, **options: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_left_in_a_pipe_comes_behind_what_is_in_the_log(folder: JobFolder) -> None:
    folder.log("job").write_bytes(b"first\n")
    with holding_pipe(folder):
        prints(folder, b"second\n")
        assert waiting_bytes(folder) == 7
        assert (empty_pipe(folder), waiting_bytes(folder)) == (0, 0)
    assert folder.log("job").read_bytes() == b"first\nsecond\n"


def test_a_pipe_that_is_held_keeps_its_bytes_when_all_others_are_gone(folder: JobFolder) -> None:
    with holding_pipe(folder):
        prints(folder, b"said\n")
        os.close(os.open(folder.pipe, os.O_RDWR | os.O_NONBLOCK))
        assert waiting_bytes(folder) == 5
    assert waiting_bytes(folder) == 0, "nobody holds it"


def test_a_job_without_a_pipe_is_one_of_an_earlier_agent(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    with holding_pipe(folder):
        assert (empty_pipe(folder), waiting_bytes(folder)) == (0, 0)


def test_on_a_full_disk_output_waits_in_the_pipe(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    signals, _ = os.pipe()
    one = Output(folder)
    prints(folder, b"said\n")
    with monkeypatch.context() as patched:
        patched.setattr(output.os, "splice", full)
        assert one.wait(signals, 0) is False
        assert waiting_bytes(folder) == 5
    monkeypatch.setattr(output, "RETRY_S", 0.0)
    assert (one.empty(), folder.log("job").read_bytes()) == (0, b"said\n")


def test_what_a_full_disk_never_takes_is_told(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.os, "splice", full)
    monkeypatch.setattr(output, "EMPTY_MAX_S", 0.0)
    with holding_pipe(folder):
        prints(folder, b"said\n" * 1000)
        assert empty_pipe(folder) == 5000
    assert lost_in_words(5000) == ("the last 5.0 KB of its output are lost: the disk of the machine takes no more")
    assert lost_in_words(0) == ""


def test_a_signal_ends_the_wait_also_while_the_job_prints(folder: JobFolder) -> None:
    signals, send = os.pipe()
    one = Output(folder)
    os.write(send, b"!")
    prints(folder, b"said\n")
    assert one.wait(signals, 60.0) is True


@pytest.mark.parametrize("seed", range(3))
def test_whoever_moves_output_may_be_killed_at_any_moment(folder: JobFolder, seed: int) -> None:
    size, chance = 8_000_000, random.Random(seed)
    with holding_pipe(folder):
        if (printer := os.fork()) == 0:
            try:
                prints(folder, numbered(0, size))
            finally:
                os._exit(0)
        while waiting_bytes(folder) or os.waitpid(printer, os.WNOHANG) == (0, 0):
            if (mover := os.fork()) == 0:
                try:
                    Output(folder).wait(os.pipe()[0], 60.0)
                finally:
                    os._exit(0)
            enough = folder.log("job").stat().st_size + chance.randrange(1, size // 10)
            while waiting_bytes(folder) and folder.log("job").stat().st_size < enough:
                pass
            os.kill(mover, signal.SIGKILL)
            os.waitpid(mover, 0)
    assert folder.log("job").read_bytes() == numbered(0, size)
