"""What is mounted into a container lies ready on the host, however often it is laid out."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from dstack.agent.containers import mounted
from dstack.agent.containers.mounted import lay_out, made_for
from dstack.agent.files import make_empty
from dstack.agent.paths import JobFolder
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container, JobOrder, Mount
from dstack.protocol.files import ABSOLUTE

JOBS_AT_ONCE = 4
ORDER = JobOrder("job", "run", "true", container=Container("image", files=("/etc/my.conf",)))


def fetch(folder: JobFolder, content: str) -> None:
    """As a job's files come."""
    make_empty(folder.files)
    place = folder.files / ABSOLUTE / "etc"
    place.mkdir(parents=True)
    (place / "my.conf").write_text(content)


def test_files_are_laid_out_anew_by_an_agent_that_follows_one_that_died_before_the_start(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.root.mkdir()
    folder.log("job").touch()
    for content in ("of the first agent", "of the next"):
        fetch(folder, content)
        lay_out(folder, ORDER, tmp_path / "launch")
    assert (folder.absolute / "etc/my.conf").read_text() == "of the next"
    assert not (folder.files / ABSOLUTE).exists()


def test_a_missing_folder_that_two_jobs_mount_may_be_made_by_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, source = JobFolder(tmp_path / "job"), tmp_path / "data"
    folder.files.mkdir(parents=True)

    def write_json(path: Path, value: dict[str, object]) -> None:
        source.mkdir()  # by the other job, just now
        write(path, value)

    write = mounted.write_json
    monkeypatch.setattr(mounted, "write_json", write_json)
    container = Container("image", mounts=(Mount(str(source), "/data"),))
    lay_out(folder, replace(ORDER, container=container), tmp_path / "launch")
    assert made_for(folder) == [str(source)]


def test_volume_that_cannot_be_made_is_refused_unless_it_is_optional(tmp_path: Path) -> None:
    folder, in_a_file = JobFolder(tmp_path / "job"), tmp_path / "file" / "data"
    folder.files.mkdir(parents=True)
    in_a_file.parent.touch()
    for optional in (True, False):
        container = Container("image", mounts=(Mount(str(in_a_file), "/data", optional=optional),))
        if optional:
            lay_out(folder, replace(ORDER, container=container), tmp_path / "launch")
            assert not in_a_file.parent.is_dir()
        else:
            with pytest.raises(AgentRefused, match="cannot be mounted: Not a directory"):
                lay_out(folder, replace(ORDER, container=container), tmp_path / "launch")


def test_absolute_working_directory_is_not_made_on_the_host(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.files.mkdir(parents=True)
    place = tmp_path / "outside"
    lay_out(folder, replace(ORDER, working_dir=str(place)), tmp_path / "launch")
    assert not place.exists()


def test_jobs_that_start_at_once_in_a_new_home_share_one_launcher(tmp_path: Path) -> None:
    def start(number: int) -> None:
        folder = JobFolder(tmp_path / str(number // JOBS_AT_ONCE) / f"job-{number}")
        folder.files.mkdir(parents=True)
        together.wait()
        lay_out(folder, JobOrder(folder.job_id, "run", "true"), folder.root.parent / "launch")

    together = Barrier(JOBS_AT_ONCE)
    with ThreadPoolExecutor(JOBS_AT_ONCE) as threads:
        list(threads.map(start, range(50 * JOBS_AT_ONCE)))
