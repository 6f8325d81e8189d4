"""What an agent knows of its host: paths, locks, environment, resources, processes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dstack.agent import processes, resources
from dstack.agent.environment import find_shell, resolve_working_dir
from dstack.agent.forgotten import KEPT_MAX, Forgotten
from dstack.agent.paths import (
    SOCKET_PATH_BYTES_MAX,
    Home,
    is_agent_alive,
    make_private_folder,
    read_json,
    socket_path,
    take_lock,
    write_json,
)
from dstack.errors import AgentRefused, ConfigurationError
from dstack.kit.locks import is_locked
from dstack.protocol.agent import JobOrder
from tests.patience import PATIENCE_S


def test_a_socket_lies_in_the_home_where_its_path_is_short() -> None:
    assert socket_path(Path("/home/me/agent")) == Path("/home/me/agent/agent.sock")


def test_the_socket_of_a_long_home_is_short_private_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("/home") / ("x" * 200)
    path = socket_path(home)
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    assert socket_path(home) == path != socket_path(home / "y")
    assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX
    assert path.parent.name == f"dstack-{os.getuid()}"


def test_a_private_folder_is_closed_to_others_and_is_no_link(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    make_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ConfigurationError, match="not a folder of this user"):
        make_private_folder(tmp_path / "link")


def test_a_lock_is_had_by_one_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not is_agent_alive(tmp_path)
    lock = take_lock(home.lock)
    assert lock is not None and is_agent_alive(tmp_path) and take_lock(home.lock) is None
    os.close(lock)
    assert not is_locked(home.lock)


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        (["bash", "sh"], None, "bash"),
        (["sh"], None, "sh"),
        (["bash", "sh"], "sh", "sh"),
        (["bash", "sh"], "bash", "bash"),
    ],
)
def test_bash_is_taken_where_there_is_one_and_sh_where_not(
    tmp_path: Path, there: list[str], wanted: str | None, found: str
) -> None:
    for name in there:
        (tmp_path / name).touch(0o755)
    assert find_shell(JobOrder("j", "r", "true", shell=wanted), str(tmp_path)) == str(tmp_path / found)


@pytest.mark.parametrize(("there", "wanted"), [([], None), (["sh"], "bash"), (["fish"], "fish")])
def test_a_shell_that_is_not_there_is_refused(tmp_path: Path, there: list[str], wanted: str | None) -> None:
    for name in there:
        (tmp_path / name).touch(0o755)
    with pytest.raises(AgentRefused, match="no shell"):
        find_shell(JobOrder("j", "r", "true", shell=wanted), str(tmp_path))


@pytest.mark.parametrize("working_dir", ["..", "/etc", "a/../..", "out", "out/deeper"])
def test_a_working_directory_outside_is_refused_also_behind_a_link(tmp_path: Path, working_dir: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "out").symlink_to(tmp_path)
    with pytest.raises(AgentRefused, match="outside"):
        resolve_working_dir(files, working_dir)


@pytest.mark.parametrize("working_dir", [".", "a/b", "a/../b", ""])
def test_a_working_directory_inside_is_found(tmp_path: Path, working_dir: str) -> None:
    assert resolve_working_dir(tmp_path, working_dir) == (tmp_path / working_dir).resolve()


def test_the_host_has_what_the_kernel_lets_this_process_have(tmp_path: Path) -> None:
    found = resources.probe(tmp_path)
    assert 1 <= found.cpus <= (os.cpu_count() or 1)
    assert found.memory_mib > 0 and found.disk_mib > 0


@pytest.mark.parametrize(
    ("files", "cpus", "memory_mib"),
    [
        ({}, None, None),
        ({"cpu.max": "150000 100000", "memory.max": "1073741824"}, 1, 1024),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu.max": "10000 100000"}, 1, None),
    ],
)
def test_control_groups_limit_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int | None, memory_mib: int | None
) -> None:
    monkeypatch.setattr(resources, "CONTROL_GROUPS", tmp_path)
    unlimited = resources.probe(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    found = resources.probe(tmp_path)
    assert found.cpus == (min(cpus, unlimited.cpus) if cpus else unlimited.cpus)
    assert found.memory_mib == (memory_mib or unlimited.memory_mib)


def test_the_forgotten_are_remembered_across_restarts_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT_MAX >= 1000
    monkeypatch.setattr("dstack.agent.forgotten.KEPT_MAX", 3)
    forgotten = Forgotten(tmp_path)
    for name in "abcd":
        forgotten.add(name)
    assert "a" not in forgotten and "d" in forgotten
    assert "b" in Forgotten(tmp_path) and len(os.listdir(tmp_path)) == 3


IN_A_JOB = """
import os, subprocess
from dstack.agent import processes
other = subprocess.Popen(["sleep", "1000"], env={**os.environ, processes.MARKER: "other"}, start_new_session=True)
try:
    print(processes.marked(os.environ[processes.MARKER]) == set(), processes.marked("other") == {other.pid})
finally:
    other.kill()
"""


def test_what_is_below_an_agent_that_was_started_in_a_job_is_not_that_jobs() -> None:
    env = {**os.environ, processes.MARKER: f"unit-{os.getpid()}"}
    said = subprocess.run([sys.executable, "-c", IN_A_JOB], env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "True True\n"


def test_whatever_carries_a_jobs_marker_is_ended_and_nothing_else() -> None:
    env, job_id = {"PATH": os.environ["PATH"]}, f"unit-{os.getpid()}"
    ours = subprocess.Popen(["sleep", "1000"], env=env | {processes.MARKER: job_id})
    other = subprocess.Popen(["sleep", "1000"], env=env | {processes.MARKER: job_id + "0"})
    try:
        assert processes.end_marked(job_id)
        assert ours.wait(PATIENCE_S) == -9 and other.poll() is None
    finally:
        other.kill()
        other.wait()
        ours.kill()
        ours.wait()


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "stop.json"

    def write(number: int) -> None:
        for _ in range(500):
            write_json(path, {"grace_s": number})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert read_json(path, dict) in [{"grace_s": number} for number in range(4)]
    assert list(tmp_path.iterdir()) == [path]
