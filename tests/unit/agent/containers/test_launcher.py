"""The program that starts a job in its container."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from dstack.agent.containers.launcher import MACHINES, NOT_STARTED, launch_arguments, launcher
from tests.machine import missing
from tests.patience import PATIENCE_S

EMULATOR = {"aarch64": "qemu-aarch64-static", "x86_64": "qemu-x86_64-static"}


@pytest.fixture(params=sorted(MACHINES))
def start(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command that runs the program of each machine, emulated where this is another one."""
    program = tmp_path / "launch"
    program.write_bytes(launcher(request.param))
    program.chmod(0o755)
    if request.param == platform.machine():
        return [str(program)]
    emulator = shutil.which(EMULATOR[request.param])
    if emulator is None:
        missing(f"{EMULATOR[request.param]} is not installed: `apt-get install qemu-user-static`")
    return [emulator, str(program)]


def run(start: list[str], log: Path, *rest: str, env: dict[str, str] | None = None) -> int:
    return subprocess.run([*start, *rest], env=env or {}, timeout=PATIENCE_S, capture_output=True).returncode


def test_output_and_errors_are_appended_to_the_log_and_the_code_is_the_programs(
    start: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    script = 'echo "$A $0 $1"; echo err >&2; echo "closed: $( { ls /proc/self/fd/3; } 2>&1 )" >/dev/null; exit 7'
    arguments = launch_arguments(str(log), "", ["/none/sh", "/bin/sh"], ["-c", script, "name", "with space"])
    assert run(start, log, *arguments, env={"A": "1"}) == 7
    assert log.read_bytes() == b"before\n1 name with space\nerr\n"


def test_where_nothing_can_be_started_the_message_says_so(start: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    plain = tmp_path / "no program"
    plain.write_text("text")
    arguments = launch_arguments(str(log), "There is no `x` here\n", ["/none/x", str(plain)], [])
    assert run(start, log, *arguments) == NOT_STARTED
    assert log.read_bytes() == b"There is no `x` here\n"


def test_without_a_log_nothing_is_started(start: list[str], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    arguments = launch_arguments(str(tmp_path / "none"), "", ["/bin/sh"], ["-c", f": > {mark}"])
    assert run(start, tmp_path, *arguments) == NOT_STARTED
    assert not mark.exists() and os.listdir(tmp_path) == ["launch"]
