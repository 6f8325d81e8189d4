"""A folder of this machine, as the job finds it."""

import os
from pathlib import Path

import pytest

from dstack.api import LocalRepo, Run, Task
from tests.e2e.home import Home

pytestmark = pytest.mark.server("shared")

LIST = "find . -mindepth 1 | LC_ALL=C sort"


@pytest.fixture
def folder(home: Home) -> Path:
    """A project with something of everything."""
    home.write("code/main.sh", "#!/bin/sh\necho main runs\n").chmod(0o755)
    home.write("code/data/deep/er/números ✓.txt", "text of its own\n")
    home.write("code/data/empty", "")
    home.write("code/.gitignore", "*.log\n/build/\n!keep.log\n")
    home.write("code/noise.log", "left out")
    home.write("code/keep.log", "kept")
    home.write("code/build/out.bin", "left out")
    (home.path / "code" / "latest").symlink_to("data/deep")
    (home.path / "code" / "data" / "bytes").write_bytes(bytes(range(256)))
    return home.path / "code"


def submit(home: Home, folder: Path, *commands: str, **fields: str) -> Run:
    task = Task(commands=list(commands), **fields)
    return home.client().runs.submit(configuration=task, repo=LocalRepo.from_dir(folder))


def output_of(run: Run) -> str:
    text = b"".join(run.logs()).decode()
    run.refresh()
    assert run.status == "done", text
    return text


def missing_bytes(home: Home, folder: Path) -> int:
    """How much of the folder the server lacked when a run with it was submitted."""
    lacking: list[int] = []
    runs = home.client().runs
    plan = runs.get_plan(Task(commands=["true"]), LocalRepo.from_dir(folder))
    output_of(runs.exec_plan(plan, progress=lambda there, whole: lacking.append(whole - there)))
    assert lacking[-1] == 0
    return lacking[0]


def test_the_job_starts_in_a_folder_with_exactly_these_files(home: Home, folder: Path) -> None:
    run = submit(home, folder, LIST, "./main.sh", "cat latest/er/*", "stat -c %a main.sh data/empty", "readlink latest")
    assert output_of(run).splitlines() == [
        "./.gitignore",
        "./data",
        "./data/bytes",
        "./data/deep",
        "./data/deep/er",
        "./data/deep/er/números ✓.txt",
        "./data/empty",
        "./keep.log",
        "./latest",
        "./main.sh",
        "main runs",
        "text of its own",
        "755",
        "644",
        "data/deep",
    ]


def test_bytes_arrive_as_they_are(home: Home, folder: Path) -> None:
    (folder / "data" / "large").write_bytes(os.urandom(20 << 20))
    run = submit(home, folder, f"cmp data/large {folder}/data/large", f"cmp data/bytes {folder}/data/bytes")
    assert output_of(run) == ""


def test_the_same_folder_again_sends_nothing_and_a_change_only_itself(home: Home, folder: Path) -> None:
    (folder / "data" / "large").write_bytes(os.urandom(8 << 20))
    assert missing_bytes(home, folder) > 8 << 20
    assert missing_bytes(home, folder) == 0
    home.write("code/data/empty", "not any more")
    assert 0 < missing_bytes(home, folder) < 10_000
    assert output_of(submit(home, folder, "cat data/empty")) == "not any more"


def test_a_job_may_start_in_a_folder_of_its_files(home: Home, folder: Path) -> None:
    run = submit(home, folder, "cat bytes | wc -c", 'test "$PWD" = "$DSTACK_WORKING_DIR"', working_dir="data")
    assert output_of(run).strip() == "256"


def test_two_runs_have_folders_of_their_own(home: Home, folder: Path) -> None:
    first = submit(home, folder, "echo mine > keep.log", "pwd")
    second = submit(home, folder, "cat keep.log", "echo", "pwd")
    mine = output_of(first).strip()
    kept, theirs = output_of(second).split()
    assert (kept, (folder / "keep.log").read_text()) == ("kept", "kept")
    assert len({mine, theirs, str(folder)}) == 3


def test_a_file_changed_after_the_submit_does_not_change_the_run(home: Home, folder: Path) -> None:
    gate = home.gate()
    run = submit(home, folder, f"cat {gate}", "cat keep.log")
    (folder / "keep.log").write_text("changed")
    home.open_gate()
    assert output_of(run) == "open\nkept"


def test_without_a_repo_the_folder_is_empty(home: Home) -> None:
    run = home.client().runs.submit(configuration=Task(commands=[LIST, "pwd"]))
    assert output_of(run).startswith("/")


def test_the_folder_of_an_ended_job_is_gone_from_its_machine(home: Home, folder: Path) -> None:
    run = submit(home, folder, "pwd")
    place = Path(output_of(run).strip())
    for event in home.client().events.follow(run.id):
        if event.status == "done":
            break
    assert not place.exists()


def test_the_command_sends_a_folder_too(home: Home, folder: Path) -> None:
    home.write("run.yml", "type: task\ncommands: [./main.sh]\n")
    result = home.cli("apply", "-y", "-f", "run.yml", "--repo", "code")
    assert (result.stdout, result.returncode) == ("main runs\n", 0)
