"""What a process job finds in its environment: the submitter's and the job's own things, and nothing of dstack's."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from dstack.agent.environment import job_environment
from dstack.agent.paths import JobFolder, write_json
from dstack.agent.sshd import inside
from dstack.agent.sshd.envoys import Envoys
from dstack.protocol.agent import JobOrder


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job's folder of a path without links."""
    return JobFolder(tmp_path.resolve())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of programs of a virtual environment that this process seems to run in."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "dstack"))
    (tmp_path / "dstack/bin").mkdir(parents=True)
    return str(tmp_path / "dstack/bin")


def environment(folder: JobFolder, order: JobOrder, inherited: Mapping[str, str]) -> dict[str, str]:
    return job_environment(order, folder, inherited, folder.files / "w")


def test_of_the_agents_environment_only_what_is_harmless_is_passed_on(folder: JobFolder) -> None:
    env = {"PATH": "/mine", "CUDA_VISIBLE_DEVICES": "0,1", "PYTHONUNBUFFERED": "", "DSTACK_JOB_ID": "forged"}
    inherited = {
        **{"PATH": "/bin", "HOME": "/root", "LC_ALL": "C", "PIP_INDEX_URL": "u", "UV_INDEX_URL": "u"},
        **{"DSTACK_TOKEN": "t", "CUDA_VISIBLE_DEVICES": "7", "PYTHONPATH": "p", "PYTHONHOME": "p", "VIRTUAL_ENV": "v"},
        **{"PIP_PREFIX": "p", "PIP_TARGET": "t", "UV_PYTHON": "p", "UV_PROJECT_ENVIRONMENT": "e", "PIPX_HOME": "h"},
        **{"CONDA_PREFIX": "c", "VIRTUAL_ENV_PROMPT": "v", "UV_INDEX_MINE_PASSWORD": "p"},
    }
    write_json(folder.visible, {"CUDA_VISIBLE_DEVICES": "1"})
    assert environment(folder, JobOrder("j", "r", "true", env=env), inherited) == {
        "CUDA_VISIBLE_DEVICES": "1",
        "PATH": "/mine",
        "HOME": "/root",
        "LC_ALL": "C",
        "PIP_INDEX_URL": "u",
        "UV_INDEX_URL": "u",
        "PYTHONUNBUFFERED": "",
        "DSTACK_JOB_ID": "j",
        "DSTACK_REPO_DIR": str(folder.files),
        "DSTACK_WORKING_DIR": str(folder.files / "w"),
    }


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (JobOrder("j", "r", "true"), "/bin"),
        (JobOrder("j", "r", "true", path="/theirs:{own}:/usr/bin"), "/theirs:/usr/bin"),
        (JobOrder("j", "r", "true", path="{own}"), os.defpath),
        (JobOrder("j", "r", "true", path="/theirs", env={"PATH": "{own}:/said"}), "{own}:/said"),
    ],
    ids=["the agent's", "the submitter's", "nothing else", "the job's own"],
)
def test_dstacks_programs_are_out_of_the_path_unless_the_job_asks_for_them(
    folder: JobFolder, own: str, order: JobOrder, expected: str
) -> None:
    env = {name: value.format(own=own) for name, value in order.env.items()}
    ordered = JobOrder("j", "r", "true", path=order.path and order.path.format(own=own), env=env)
    assert environment(folder, ordered, {"PATH": f"{own}:/bin"})["PATH"] == expected.format(own=own)


def test_the_environment_of_the_python_it_asked_for_goes_first_whatever_else_is_said(folder: JobFolder) -> None:
    found = environment(folder, JobOrder("j", "r", "true", python="3.12", env={"PATH": "/said"}), {"PATH": "/bin"})
    assert (found["PATH"], found["VIRTUAL_ENV"]) == (f"{folder.environment}/bin:/said", str(folder.environment))


def test_an_environment_that_the_submitter_has_activated_is_the_jobs_too(folder: JobFolder, tmp_path: Path) -> None:
    programs = tmp_path / "mine/bin"
    programs.mkdir(parents=True)
    (programs / "python3").touch(0o755)
    order = JobOrder("j", "r", "true", path=f"{programs}:/bin")
    assert "VIRTUAL_ENV" not in environment(folder, order, {}), "it is a folder like others"
    (tmp_path / "mine/pyvenv.cfg").touch()
    assert environment(folder, order, {})["VIRTUAL_ENV"] == str(tmp_path / "mine")


def test_shell_to_type_into_needs_no_room_on_the_disk(folder: JobFolder, tmp_path: Path) -> None:
    order = JobOrder("j", "r", "true")
    argv = inside._OfHost(folder, order, cast(Envoys, None))._shell_to_type_into("/bin/bash", "/mine")
    assert (argv, folder.bashrc.read_text().splitlines()[1]) == (
        ["/bin/bash", "--rcfile", str(folder.bashrc)],
        "PATH=/mine",
    )
    without = inside._OfHost(JobFolder(tmp_path / "no-room"), order, cast(Envoys, None))
    assert without._shell_to_type_into("/bin/bash", "/mine") == ["/bin/bash"]
