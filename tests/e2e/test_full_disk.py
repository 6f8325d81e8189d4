"""A disk that is full, the host's or the server's: one clear reason, nobody else suffers, and nothing is lost."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dstack.agent.output import PIPE_BYTES, waiting_bytes
from dstack.agent.paths import JobFolder
from dstack.api import LocalRepo, Run, RunStatus, Task
from dstack.errors import StorageUnavailable
from tests.e2e.home import Home, wait_for
from tests.machine import refused
from tests.printing import numbered, printing

MIB = 1 << 20
Mount = Callable[[Path, int], None]


@pytest.fixture
def small_disk(home: Home) -> Iterator[Mount]:
    """Makes a folder a small disk of its own; called again, that disk gets another size."""
    mounted = set[Path]()

    def mount(path: Path, size: int) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"size={size}{',remount' if path in mounted else ''},mode=700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(path)], capture_output=True, text=True
        )
        if done.returncode != 0:
            refused(f"this machine lets nobody mount a disk for tests: {done.stderr}")
        mounted.add(path)

    yield mount
    home.end_servers_and_agents()  # afterwards nobody would find them
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def submit(home: Home, *commands: str, repo: LocalRepo | None = None) -> Run:
    return home.client().runs.submit(Task(commands=list(commands)), repo=repo)


def outcome(run: Run) -> tuple[bytes, RunStatus, str]:
    """What a run printed, how it ended, and why."""
    printed = b"".join(run.logs())
    run.refresh()
    return printed, run.status, run.detail


def test_files_that_do_not_fit_on_the_host_are_one_clear_reason(home: Home, small_disk: Mount, tmp_path: Path) -> None:
    small_disk(home.data / "machines", 4 * MIB)
    (tmp_path / "large").write_bytes(os.urandom(8 * MIB))
    printed, status, detail = outcome(submit(home, "echo never", repo=LocalRepo.from_dir(tmp_path)))
    assert (printed, status) == (b"", RunStatus.FAILED)
    assert detail.startswith("The machine's disk for job files is full; free space there")
    assert outcome(submit(home, "echo fine")) == (b"fine\n", RunStatus.DONE, "")


def test_a_job_that_fills_the_disk_ends_with_its_own_code_and_can_be_stopped(home: Home, small_disk: Mount) -> None:
    small_disk(home.data / "machines", 16 * MIB)
    fill = "echo begin; cat /dev/zero >fill 2>/dev/null"
    printed, status, detail = outcome(submit(home, f"{fill}; echo more; exit 3"))
    assert (printed.startswith(b"begin\n"), status, detail) == (True, RunStatus.FAILED, "exit code 3")
    stubborn = submit(home, f"{fill}; touch {home.path}/full; sleep 1000")
    wait_for("a full disk", lambda: (home.path / "full").exists())
    stubborn.stop()
    printed, status, _ = outcome(stubborn)
    assert (printed.startswith(b"begin\n"), status) == (True, RunStatus.TERMINATED)
    assert outcome(submit(home, "echo fine")) == (b"fine\n", RunStatus.DONE, "")


def test_who_fills_the_disk_and_does_not_stop_can_still_be_aborted(home: Home, small_disk: Mount) -> None:
    small_disk(home.data / "machines", 16 * MIB)
    fill = f"trap '' TERM; cat /dev/zero >fill 2>/dev/null; touch {home.path}/full; while true; do sleep 1; done"
    run = home.client().runs.submit(Task(commands=[fill], stop_duration="1h"))
    wait_for("a full disk", lambda: (home.path / "full").exists())
    run.stop()
    wait_for("the job to be asked", lambda: any((home.data / "machines").glob("*/jobs/*/stop.json")))
    run.stop(abort=True)
    assert outcome(run)[1] is RunStatus.TERMINATED


def test_while_the_servers_disk_is_full_logs_wait_on_the_host_and_nothing_is_lost(
    home: Home, small_disk: Mount
) -> None:
    size = 20 * MIB
    small_disk(home.data / "logs", 6 * MIB)
    run = submit(home, printing(size), f"touch {home.path}/over")
    wait_for("the end of the job", lambda: (home.path / "over").exists())
    wait_for("the server to notice", lambda: "No space left on device" in home.server_log())
    other = submit(home, f"touch {home.path}/other", "exit 4")
    wait_for("another job to run meanwhile", lambda: (home.path / "other").exists())
    small_disk(home.data / "logs", 64 * MIB)
    printed, status, _ = outcome(run)
    assert status is RunStatus.DONE
    assert printed[:size] == numbered(0, size)
    assert outcome(other)[1:] == (RunStatus.FAILED, "exit code 4")


def test_a_job_that_prints_on_a_full_disk_waits_for_room_and_loses_nothing(home: Home, small_disk: Mount) -> None:
    machines, size = home.data / "machines", 900_000
    small_disk(machines, 16 * MIB)
    run = submit(home, f"echo begin; cat {home.gate()}", printing(size), f"touch {home.path}/over")
    assert next(run.logs()) == b"begin\n"
    with open(machines / "filler", "wb") as filler, suppress(OSError):
        while True:
            filler.write(bytes(MIB))
    home.open_gate()
    (folder,) = machines.glob("*/jobs/*")
    wait_for("the job to wait", lambda: waiting_bytes(JobFolder(folder)) > PIPE_BYTES // 2)
    assert not (home.path / "over").exists()
    (machines / "filler").unlink()
    printed, status, _ = outcome(run)
    assert (printed, status) == (b"begin\nopen\n" + numbered(0, size), RunStatus.DONE)


def test_files_that_do_not_fit_on_the_server_are_one_clear_message_and_nothing_of_them_stays(
    home: Home, small_disk: Mount, tmp_path: Path
) -> None:
    blobs = home.data / "blobs"
    small_disk(blobs, MIB)
    (tmp_path / "large").write_bytes(os.urandom(2 * MIB))
    with pytest.raises(StorageUnavailable, match="No space left on device") as caught:
        submit(home, "echo never", repo=LocalRepo.from_dir(tmp_path))
    assert caught.value.hint is not None and "Free space" in caught.value.hint
    assert all(len(path.name) == 64 for path in blobs.glob("*/*/*"))
    small_disk(blobs, 8 * MIB)
    assert outcome(submit(home, "wc -c <large", repo=LocalRepo.from_dir(tmp_path)))[0].split() == [b"%d" % (2 * MIB)]
