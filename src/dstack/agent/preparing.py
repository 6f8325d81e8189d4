"""The preparation of a job: its files and the needs of its runtime, with reports of the progress of an image."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from dstack.agent.fetching import work_of
from dstack.agent.paths import JobFolder
from dstack.agent.runtimes.base import Runtime
from dstack.protocol.agent import JobOrder, Layer

PREPARE_AT_ONCE = 8
REPORT_EVERY_S = 0.5
"""The shortest time between two reports of a pull, unless a layer has become complete."""
SLOW_AFTER_S = 2.0
"""A preparation that takes longer is reported."""

FetchFiles: TypeAlias = Callable[[JobFolder, JobOrder], Awaitable[None]]
"""Puts all files of a job in place."""


class Report(Protocol):
    """Reports a change of a job."""

    def __call__(self, **changes: object) -> None: ...


class Preparations:
    """Prepares jobs, a few of them at once."""

    def __init__(self, fetch_files: FetchFiles) -> None:
        self._fetch_files = fetch_files
        self._slots = asyncio.Semaphore(PREPARE_AT_ONCE)

    async def run(self, folder: JobFolder, order: JobOrder, runtime: Runtime, report: Report) -> None:
        """Prepare a job, and report the layers of its image, or the work that takes long. May be cancelled."""
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW_AFTER_S, lambda: report(message=work_of(order)))
        try:
            async with self._slots:
                await self._fetch_files(folder, order)
            await _prepare(folder, order, runtime, report)
        finally:
            slow.cancel()


async def _prepare(folder: JobFolder, order: JobOrder, runtime: Runtime, report: Report) -> None:
    latest: tuple[Layer, ...] = ()
    reported: tuple[Layer, ...] = ()

    def pass_on() -> None:
        nonlocal reported
        reported = latest
        report(layers=latest)

    def take(layers: tuple[Layer, ...]) -> None:
        nonlocal latest
        latest = layers
        if not reported or _ready(latest) != _ready(reported):
            pass_on()

    async def keep_reporting() -> None:
        while True:
            if latest != reported:
                pass_on()
            await asyncio.sleep(REPORT_EVERY_S)

    reporting = asyncio.create_task(keep_reporting(), name=f"reports the image pull of {order.job_id}")
    try:
        await runtime.prepare(folder, order, take)
    finally:
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)


def _ready(layers: tuple[Layer, ...]) -> int:
    return sum(layer.ready for layer in layers)
