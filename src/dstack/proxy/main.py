"""`python -m dstack.proxy FOLDER CONTROL_SOCKET READY_FD`: a data plane, from its start to its last answer."""

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dstack.kit.clock import SystemClock
from dstack.kit.locks import take
from dstack.protocol.proxy import LOCK
from dstack.proxy.access_log import AccessLog
from dstack.proxy.control import Control
from dstack.proxy.leaving import clear, leave
from dstack.proxy.models.choosing import Models
from dstack.proxy.plane import CLIENTS_MAX, DataPlane

log = logging.getLogger(__name__)

DRAIN_FOR_S = 3600.0
"""The time for answers and streams to end, once the data plane is to leave."""
DESCRIPTORS_KEPT = 64


async def serve(folder: Path, socket_path: Path, ready_fd: int, lock: int) -> None:
    """Serve until no one needs this data plane any more."""
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()
    plane = DataPlane(_clients_max())
    models = Models(plane, SystemClock())
    plane.choose_model = models.choose
    control = Control(plane, socket_path, leaving.set)
    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    plane.tasks.keep("servers", control.serve)
    plane.tasks.keep("counters", control.count)
    plane.tasks.keep("clients", plane.watch)
    access_log = AccessLog(folder / "access.log")
    plane.on_answer = access_log.note
    plane.tasks.keep("access log", access_log.write)
    gc.freeze()
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    log.info("Data plane ready, process %s", os.getpid())
    await leaving.wait()
    await control.close()
    await leave(plane, folder, lambda: os.close(lock), DRAIN_FOR_S)
    await plane.tasks.close()
    await models.close()
    access_log.flush()


def _clients_max() -> int:
    """Return how many connections of clients there may be: each has one to a replica beside it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, min(CLIENTS_MAX, (hard - DESCRIPTORS_KEPT) // 2))


def main() -> int:
    """Run one data plane for a folder; another one that lives already stays alone. Returns the exit code."""
    folder, socket_path, ready_fd = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    lock = take(folder / LOCK)
    if lock is None:
        log.error("Another data plane serves %s", folder)
        return 1
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    clear(folder)
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        try:
            runner.run(serve(folder, socket_path, ready_fd, lock))
        except Exception:
            # The close of its loop may wait for connections; the server waits for the lock, to start another one.
            log.exception("The data plane has failed, process %s", os.getpid())
            os._exit(1)
    return 0


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return how an event loop is made: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
