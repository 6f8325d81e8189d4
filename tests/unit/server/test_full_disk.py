"""A disk of the server's that is full, or has no inodes left: one clear answer, and nothing half-written stays."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dstack.blobs.files import BlobFiles
from dstack.kit.vault import KeyFile
from dstack.operations.context import Context
from dstack.protocol.files import hash_of
from tests.unit.server.conftest import PROJECT

BLOB = os.urandom(1 << 16)
Refuse = Callable[..., Any]


def no_room(*_arguments: object, **_named: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data")


def without_new_files(open_file: Refuse) -> Refuse:
    """Opens files that are there, and makes none."""

    def opened(path: Any, flags: int, *arguments: Any, **named: Any) -> Any:
        return no_room() if flags & os.O_CREAT else open_file(path, flags, *arguments, **named)

    return opened


def half(write: Refuse) -> Refuse:
    """Opens a file as `open` does, of which only the first bytes fit on the disk."""

    def opened(*arguments: Any, **named: Any) -> Any:
        file = write(*arguments, **named)
        whole = file.write

        def write_half(data: Any) -> int:
            whole(data[: len(data) // 2])
            file.flush()
            return int(no_room())

        file.write = write_half
        return file

    return opened


@pytest.fixture
def context(context: Context, tmp_path: Path) -> Context:
    """The key of this server is a file beside its uploads."""
    folder = tmp_path / "data"
    folder.mkdir()
    return replace(context, vault=KeyFile(folder / "encryption.key"), blobs=BlobFiles(folder / "blobs"))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


FULL: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no inode": lambda patch: patch.setattr(os, "open", without_new_files(os.open)),
    "no room": lambda patch: patch.setattr("builtins.open", half(open)),
    "no room for a name": lambda patch: (patch.setattr(os, "rename", no_room), patch.setattr(os, "link", no_room))[0],
}


@pytest.mark.parametrize("fill", FULL.values(), ids=FULL)
@pytest.mark.parametrize(
    ("url", "body"), [(f"blobs/{hash_of(BLOB)}", BLOB), ("secrets/A", b'{"value":"s3cret"}')], ids=["blob", "secret"]
)
async def test_a_full_disk_is_answered_with_503_and_leaves_nothing_behind(
    http: httpx.AsyncClient, tmp_path: Path, fill: Callable[[pytest.MonkeyPatch], None], url: str, body: bytes
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fill(patch)
        refused = await http.put(f"{PROJECT}/{url}", content=body)
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert "No space left on device" in refused.json()["detail"] and "df -i" in refused.json()["hint"]
    assert int(refused.headers["Retry-After"]) > 0
    assert files(tmp_path / "data") == []
    assert (await http.put(f"{PROJECT}/{url}", content=body)).status_code == 204
    assert len(files(tmp_path / "data")) == 1
