"""Files arrive whole and verified, and never outside their folder."""

import asyncio
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from dstack.agent.files import BlobCache, lay_over, make_empty, remove_tree
from dstack.errors import AgentRefused
from dstack.protocol.files import CHUNK_BYTES, FileEntry, hash_of, pages_of, root_of

NOBODY = 65534


class Server:
    """Holds blobs, and counts what it is asked for."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    def put(self, blob: bytes) -> str:
        self.blobs[hash_of(blob)] = blob
        return hash_of(blob)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> FileEntry:
        chunks = tuple(self.put(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
        return FileEntry(path, "file", mode, len(data), chunks)

    def root(self, entries: Iterable[FileEntry]) -> str:
        return self.put(root_of([self.put(page) for page in pages_of(entries)]))

    async def fetch(self, blob_hash: str) -> bytes | None:
        self.asked.append(blob_hash)
        return self.blobs.get(blob_hash)


def link(path: str, target: str) -> FileEntry:
    return FileEntry(path, "link", 0o777, 0, (), target)


def names_outside(folder: Path) -> list[str]:
    return os.listdir(folder)


async def unpack(root: str, target: Path, cache: BlobCache) -> int:
    make_empty(target)
    return await lay_over(root, target, cache)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def cache(tmp_path: Path, server: Server) -> BlobCache:
    return BlobCache(tmp_path / "blobs", server.fetch)


async def test_files_folders_links_and_modes_arrive_as_they_were(
    tmp_path: Path, server: Server, cache: BlobCache
) -> None:
    large = os.urandom(2 * CHUNK_BYTES + 5)
    root = server.root(
        [
            server.file("a/run.sh", b"#!/bin/sh\n", 0o755),
            server.file("a/b/large", large),
            server.file("empty", b""),
            FileEntry("c", "folder", 0o755, 0, ()),
            link("a/b/up", "../run.sh"),
        ]
    )
    assert await unpack(root, tmp_path / "files", cache) == 5
    files = tmp_path / "files"
    assert (files / "a/b/large").read_bytes() == large
    assert (files / "a/run.sh").stat().st_mode & 0o777 == 0o755
    assert (files / "empty").read_bytes() == b"" and (files / "c").is_dir()
    assert (files / "a/b/up").read_bytes() == b"#!/bin/sh\n"


async def test_an_absolute_link_arrives_and_nothing_is_written_through_it(
    tmp_path: Path, server: Server, cache: BlobCache
) -> None:
    (tmp_path / "outside").mkdir()
    outside = link("data", str(tmp_path / "outside"))
    await unpack(server.root([outside]), tmp_path / "files", cache)
    assert os.readlink(tmp_path / "files" / "data") == str(tmp_path / "outside")
    await lay_over(server.root([server.file("data/x", b"x")]), tmp_path / "files", cache)
    assert (tmp_path / "files" / "data" / "x").read_bytes() == b"x"
    for beside in (server.file("data/y", b"y"), link("data/y", "x")):
        with pytest.raises((AgentRefused, OSError)):
            await unpack(server.root([outside, beside]), tmp_path / "files", cache)
    assert os.listdir(tmp_path / "outside") == []


async def test_many_files_over_many_pages_arrive(tmp_path: Path, server: Server, cache: BlobCache) -> None:
    root = server.root(server.file(f"d{number % 7}/f{number}", b"%d" % number) for number in range(400))
    assert await unpack(root, tmp_path / "files", cache) == 400
    assert (tmp_path / "files/d3/f388").read_bytes() == b"388"


async def test_unpacking_again_asks_for_nothing_and_starts_from_nothing(
    tmp_path: Path, server: Server, cache: BlobCache
) -> None:
    root = server.root([server.file("f", b"data")])
    await unpack(root, tmp_path / "files", cache)
    (tmp_path / "files" / "left").touch()
    server.asked.clear()
    await unpack(root, tmp_path / "files", cache)
    assert server.asked == [] and os.listdir(tmp_path / "files") == ["f"]


async def test_setuid_bits_are_dropped(tmp_path: Path, server: Server, cache: BlobCache) -> None:
    await unpack(server.root([server.file("f", b"x", 0o6755)]), tmp_path / "files", cache)
    assert (tmp_path / "files/f").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "entries",
    [
        [FileEntry("../out", "file", 0o644, 0, ())],
        [FileEntry("/out", "file", 0o644, 0, ())],
        [FileEntry("a/../../out", "file", 0o644, 0, ())],
        [FileEntry("a", "device", 0o644, 0, ())],
        [link("l", "../out")],
        [link("a", ".."), FileEntry("a/out", "file", 0o644, 0, ())],
        [link("a", ".."), link("a/out", "x")],
        [link("x/y/deep", "../.."), link("x/y/z", "deep/../..")],
        [FileEntry("a", "file", 0o644, 0, ()), FileEntry("a", "file", 0o600, 0, ())],
        [FileEntry("a", "file", 0o644, 9, ())],
        [FileEntry("a", "file", 0o644, 9, ("../../etc/passwd",))],
    ],
    ids=str,
)
async def test_what_would_leave_the_folder_or_is_damaged_is_refused(
    tmp_path: Path, server: Server, cache: BlobCache, entries: list[FileEntry]
) -> None:
    with pytest.raises((AgentRefused, OSError)):
        await unpack(server.root(entries), tmp_path / "files", cache)
    assert sorted(names_outside(tmp_path)) == ["blobs", "files"]


async def test_a_blob_that_is_something_else_is_refused_and_not_kept(tmp_path: Path, server: Server) -> None:
    cache = BlobCache(tmp_path / "blobs", server.fetch)
    server.blobs["0" * 64] = b"something else"
    with pytest.raises(AgentRefused, match="damaged"):
        await cache.get("0" * 64)
    assert not (tmp_path / "blobs").exists()


async def test_a_blob_that_was_damaged_on_this_disk_is_fetched_again(
    tmp_path: Path, server: Server, cache: BlobCache
) -> None:
    blob_hash = server.put(b"good")
    await cache.get(blob_hash)
    (tmp_path / "blobs" / blob_hash).write_bytes(b"bad")
    assert await cache.get(blob_hash) == b"good"


async def test_the_cache_drops_what_was_not_used_for_longest(tmp_path: Path, server: Server) -> None:
    cache = BlobCache(tmp_path / "blobs", server.fetch, bytes_max=1000)
    hashes = [server.put(bytes([number]) * 300) for number in range(4)]
    for age, blob_hash in enumerate(hashes):
        await cache.get(blob_hash)
        os.utime(tmp_path / "blobs" / blob_hash, (age, age))
    assert sum(path.stat().st_size for path in (tmp_path / "blobs").iterdir()) <= 800
    assert (tmp_path / "blobs" / hashes[3]).exists() and not (tmp_path / "blobs" / hashes[0]).exists()


async def test_a_blob_wanted_by_many_at_once_is_right_for_all(server: Server, cache: BlobCache) -> None:
    blob_hash = server.put(b"shared")
    assert await asyncio.gather(*(cache.get(blob_hash) for _ in range(20))) == [b"shared"] * 20


def test_a_tree_whose_permissions_were_taken_away_is_removed(tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "f").touch()
    inner.chmod(0)
    inner.parent.chmod(0o500)
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what another user may not remove")
def test_what_another_user_made_in_a_tree_stays_and_the_rest_goes(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        tree = Path(name) / "tree"
        for closed in ("a", "b", "c"):
            (tree / closed).mkdir(parents=True)
            (tree / closed / "file").touch()
        for path in (Path(name), tree, tree / "a", tree / "c", tree / "a/file", tree / "c/file"):
            os.chown(path, NOBODY, NOBODY)
        for closed in ("a", "c"):
            (tree / closed).chmod(0)
        os.seteuid(NOBODY)
        try:
            remove_tree(tree)
        finally:
            os.seteuid(0)
        assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == ["b", "b/file"]
    assert f"Some of {tree} is another user's" in caplog.text


async def test_files_lie_over_what_was_there_and_what_is_gone_goes(
    tmp_path: Path, server: Server, cache: BlobCache
) -> None:
    target, outside = tmp_path / "files", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    make_empty(target)
    (target / "old").write_text("old")
    (target / "same").write_text("same")
    (target / "folder").mkdir()
    (target / "folder" / "x").write_text("x")
    (target / "file").write_text("a file, to be a folder")
    (target / "away").symlink_to(outside)
    entries = [
        FileEntry("old", "gone", 0, 0, ()),
        FileEntry("never", "gone", 0, 0, ()),
        server.file("folder", b"a folder no more"),
        server.file("file/y", b"y"),
        server.file("away/kept", b"new"),
        server.file("more", b"more"),
    ]
    await lay_over(server.root(entries), target, cache)
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    wanted = {"folder": "a folder no more", "file/y": "y", "away/kept": "new", "more": "more", "same": "same"}
    assert found == wanted
    assert (outside / "kept").read_text() == "kept"
