"""Sending logs: what goes wrong once holds up a log for a moment, and never for good."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from dstack.agent import logs
from dstack.agent.jobs import Jobs
from dstack.agent.keeping import JobLog
from dstack.agent.lives import Job
from dstack.agent.logs import Followers, Watcher
from dstack.agent.paths import JobFolder
from dstack.protocol.agent import JobOrder
from tests.making import HandClock
from tests.patience import PATIENCE_S

J = "0-job"


class OneJob:
    """A host with one job, of which a server has all logs once `is_sent` is set."""

    def __init__(self, folder: JobFolder) -> None:
        self.is_sent = asyncio.Event()
        self.job: Job | None = Job(folder, JobOrder(J, "hello", "true"), None, None)  # type: ignore[arg-type]
        self.job.logs = {"job": JobLog(folder, "job")}

    def find(self, job_id: str) -> Job | None:
        return self.job

    def followed(self, job: Job, stream: str) -> None:
        return

    def acknowledged(self, job: Job, stream: str) -> None:
        self.is_sent.set()


class Server:
    """Takes what is sent, and acknowledges it where it should."""

    def __init__(self, host: OneJob) -> None:
        self.log = b""
        self.acknowledges = True
        self.followers = Followers(cast(Jobs, host), Watcher(), self.take, HandClock())

    async def take(self, frame: dict[str, object], data: bytes | None) -> None:
        offset = int(str(frame["offset"]))
        assert data is not None and offset <= len(self.log)
        self.log = self.log[:offset] + data
        if self.acknowledges:
            self.followers.acknowledge(J, "job", len(self.log))


@pytest.fixture
def host(tmp_path: Path) -> OneJob:
    (tmp_path / "job.log").write_bytes(b"hello\n")
    return OneJob(JobFolder(tmp_path))


@pytest.fixture
async def server(host: OneJob) -> AsyncIterator[Server]:
    made = Server(host)
    yield made
    await made.followers.close()


@pytest.mark.parametrize(
    "problem", [OSError(errno.EMFILE, "Too many open files"), TimeoutError(), ZeroDivisionError("a bug")]
)
async def test_a_log_that_could_not_be_read_once_is_read_again(
    host: OneJob,
    server: Server,
    problem: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = [problem]

    async def read_at(descriptor: int, count_max: int, offset: int) -> bytes:
        if problems and offset > 0:
            raise problems.pop()
        return await as_ever(descriptor, count_max, offset)

    as_ever = logs.read_at
    monkeypatch.setattr(logs, "read_at", read_at)
    assert host.job is not None
    host.job.ended.set()
    await server.followers.follow(J, "job", 0)
    await asyncio.wait_for(host.is_sent.wait(), 30)
    assert (server.log, problems) == (b"hello\n", [])
    assert "The job log of job 0-job waits" in caplog.text


async def test_what_was_not_acknowledged_before_it_went_wrong_is_sent_again(
    host: OneJob, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.acknowledges = False
    assert host.job is not None
    host.job.ended.set()
    count = 0

    async def read_at(descriptor: int, count_max: int, offset: int) -> bytes:
        nonlocal count
        count += 1
        if count == 2:
            server.acknowledges = True
            raise OSError(errno.EIO, "Input/output error")
        return await as_ever(descriptor, count_max, offset)

    as_ever = logs.read_at
    monkeypatch.setattr(logs, "read_at", read_at)
    await server.followers.follow(J, "job", 0)
    await asyncio.wait_for(host.is_sent.wait(), 30)
    assert (server.log, host.job.logs["job"].acknowledged) == (b"hello\n", 6)


async def test_the_log_of_a_job_that_was_forgotten_meanwhile_is_let_be(
    host: OneJob, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "job.log").unlink()
    host_job, host.job = host.job, host.job
    await server.followers.follow(J, "job", 0)
    host.job = None
    (task,) = [task for _, task in server.followers._followers.values()]
    await asyncio.wait_for(task, PATIENCE_S)
    assert host_job is not None and not host.is_sent.is_set()
