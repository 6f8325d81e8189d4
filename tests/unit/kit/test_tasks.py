"""What others depend on goes on, whatever it meets."""

import asyncio
import logging

import pytest

from dstack.kit import tasks
from dstack.kit.tasks import TaskGroup

PATIENCE_S = 20.0


async def test_kept_task_that_fails_is_logged_and_begins_again_until_the_group_closes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    begun, third = 0, asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ValueError("a bug")
        third.set()
        await asyncio.Event().wait()

    group = TaskGroup()
    task = group.keep("what others need", work)
    async with asyncio.timeout(PATIENCE_S):
        await third.wait()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said == [f"The task `what others need` failed, and restarts in {pause} s" for pause in ("0.001", "0.002")]
    await group.close()
    assert task.cancelled()


async def test_kept_task_that_is_done_stays_done() -> None:
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1

    await TaskGroup().keep("once", work)
    assert begun == 1
