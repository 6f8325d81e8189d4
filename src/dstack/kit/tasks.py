"""Background tasks that are named, kept, and never die in silence."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class TaskGroup:
    """Tasks that live until `close`. Unlike `asyncio.TaskGroup`, one that fails is logged and harms no other."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order of their start, also when they are ended

    def start(self, name: str, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run the coroutine in the background."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def keep(self, name: str, work: Callable[[], Coroutine[object, object, None]]) -> asyncio.Task[None]:
        """Run a vital task in the background; after a failure, log it and restart the task after a pause.

        Args:
            work: starts the task, which finds unfinished work of its predecessor by itself.
        """
        return self.start(name, _keep(name, work))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The task `%s` failed", task.get_name(), exc_info=error)

    async def finish(self) -> None:
        """Wait for all tasks to end by themselves."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cancel all tasks and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(name: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
    pause_s = FIRST_PAUSE_S
    while True:
        began_s = asyncio.get_running_loop().time()
        try:
            return await work()
        except Exception:  # always restart the task: others depend on it
            if asyncio.get_running_loop().time() - began_s > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            log.exception("The task `%s` failed, and restarts in %g s", name, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def apart(function: Callable[[], T], name: str) -> T:
    """Return the result of a blocking call that may take hours, run in a thread of its own.

    A cancelled wait leaves the thread to end by itself; the thread does not keep the interpreter from ending.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # it can be left, not recalled

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)
