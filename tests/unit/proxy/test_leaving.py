"""A data plane that leaves: it names the jobs whose requests it finishes."""

import asyncio
import errno
from pathlib import Path

import pytest

from dstack.kit.locks import is_locked
from dstack.protocol.proxy import LEAVING
from dstack.proxy.leaving import leave
from tests.patience import PATIENCE_S
from tests.unit.proxy.world import GET, OK, World


async def test_full_disk_ends_no_request_of_a_data_plane_that_leaves(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    monkeypatch.setattr(Path, "write_bytes", full)
    is_free = asyncio.Event()
    leaving = asyncio.create_task(leave(world, tmp_path, is_free.set, 60))
    freed = asyncio.create_task(is_free.wait())
    await asyncio.wait({leaving, freed}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    assert freed.done() and not leaving.done()
    (path,) = (tmp_path / LEAVING).iterdir()
    assert is_locked(path), "it stands for all jobs"
    replica.sends(OK)
    assert client.take().startswith(b"HTTP/1.1 200")
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
