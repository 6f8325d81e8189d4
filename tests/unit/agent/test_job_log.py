"""How much of a job's log is on its host."""

import os
from pathlib import Path

import pytest

from dstack.agent.keeping import FULL_DISK_STEP_BYTES, STEP_BYTES, JobLog
from dstack.agent.paths import JobFolder


@pytest.fixture
def job_log(tmp_path: Path) -> JobLog:
    (tmp_path / "job.log").write_bytes(b"0123456789" * 10)
    return JobLog(JobFolder(tmp_path), "job")


def test_what_was_given_up_is_gone_for_the_next_agent_too(job_log: JobLog, tmp_path: Path) -> None:
    job_log.acknowledged = 70
    job_log.give_up(70)
    again = JobLog(JobFolder(tmp_path), "job")
    assert (job_log.first, again.first, again.acknowledged, again.size()) == (70, 70, 70, 100)
    assert job_log.path.read_bytes()[70:] == b"0123456789" * 3


def test_what_the_server_has_goes_in_steps_and_what_is_too_much_by_half(job_log: JobLog) -> None:
    os.truncate(job_log.path, 3 * STEP_BYTES)
    job_log.acknowledged = STEP_BYTES - 1
    assert job_log.end_of_surplus(4 * STEP_BYTES, STEP_BYTES) == 0
    assert job_log.end_of_surplus(4 * STEP_BYTES, FULL_DISK_STEP_BYTES) == STEP_BYTES - 1
    job_log.acknowledged = STEP_BYTES
    assert job_log.end_of_surplus(4 * STEP_BYTES, STEP_BYTES) == STEP_BYTES
    assert job_log.end_of_surplus(STEP_BYTES, STEP_BYTES) == 3 * STEP_BYTES - STEP_BYTES // 2
