"""What an agent finds in its folders when it starts."""

from pathlib import Path
from typing import cast

from dstack.agent.jobs import FetchFiles, Jobs, Runtimes
from dstack.agent.keeping import Bounds, Keeping
from dstack.agent.paths import Home, write_json
from dstack.kit.clock import SystemClock
from dstack.protocol.agent import JobOrder, to_json


class NoRuntime:
    """Nothing may be started."""


def test_a_job_that_was_forgotten_before_its_start_was_confirmed_is_not_started_by_the_next_agent(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    for folder in (home.jobs, home.forgotten, home.trash):
        folder.mkdir()
    left = home.job("0-job")
    left.root.mkdir()
    write_json(left.order, to_json(JobOrder("0-job", "hello", "true")))
    (home.forgotten / "0-job").touch()
    jobs = Jobs(home, cast(Runtimes, NoRuntime()), cast(FetchFiles, None), Keeping(home.jobs, Bounds(1)), SystemClock())
    jobs.recover()
    assert list(jobs.reports()) == []
    assert not left.root.exists()
