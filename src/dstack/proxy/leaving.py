"""The end of a data plane: it finishes its requests, while another one may have taken over.

The server asks the other one whether a replica has requests left. So the one that leaves names its own in a file.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from msgspec import json

from dstack.kit.folders import make_private
from dstack.kit.locks import is_locked, locked
from dstack.protocol.proxy import LEAVING
from dstack.proxy.plane import DataPlane

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5


def clear(folder: Path) -> None:
    """Remove the files of data planes that were killed while they left."""
    for path in (folder / LEAVING).glob("*"):
        if not is_locked(path):
            path.unlink(missing_ok=True)


async def leave(plane: DataPlane, folder: Path, free: Callable[[], None], within_s: float) -> None:
    """Let each connection end behind its answer, and end all after a time.

    Args:
        free: lets another data plane take over.
    """
    path = folder / LEAVING / str(os.getpid())
    make_private(path.parent)
    with locked(path):
        _write(plane, path)
        free()
        writing = asyncio.create_task(_write_again(plane, path), name="requests that are left")
        await plane.end(within_s)
        writing.cancel()
    path.unlink(missing_ok=True)


async def _write_again(plane: DataPlane, path: Path) -> None:
    while True:
        await asyncio.sleep(WRITE_EVERY_S)
        _write(plane, path)


def _write(plane: DataPlane, path: Path) -> None:
    job_ids = [replica.replica.job_id for route in plane.routes for replica in route.replicas.busy]
    try:
        path.write_bytes(json.encode(job_ids))
    except OSError as error:  # a full disk ends no request: an incomplete file stands for all jobs
        log.warning("The jobs whose requests are left could not be written: %s", error)
