"""A job's files: fetched by hash, kept in a bounded cache, and unpacked so that nothing lands outside the folder."""

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from dstack.agent.paths import make_private_folder
from dstack.errors import AgentRefused
from dstack.protocol.files import KINDS, FileEntry, entries_of, hash_of, is_safe_path, page_hashes_of

log = logging.getLogger(__name__)

CACHE_BYTES_MAX = 2 << 30
PRUNE_TO = 0.8
AT_ONCE = 16
"""Files written at a time; each has at most one blob in memory."""

HASH = re.compile(r"[0-9a-f]{64}")
MODE_BITS = 0o777
"""No setuid, setgid or sticky bits."""

Part = TypeVar("Part")
Fetch = Callable[[str], Awaitable[bytes | None]]
"""Asks the server for a blob; None where it has none."""


class BlobCache:
    """Blobs by hash, from this disk or from the server."""

    def __init__(self, folder: Path, fetch: Fetch, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._folder = folder
        self._fetch = fetch
        self._bytes_max = bytes_max
        self._bytes: int | None = None
        """The size of the cache; None until somebody has measured it."""
        self._storing = asyncio.Lock()

    async def get(self, blob_hash: str) -> bytes:
        """The blob of this hash, verified.

        Raises:
            AgentRefused: nobody has it, or the server sent something else.
        """
        if not HASH.fullmatch(blob_hash):
            raise AgentRefused("The list of the run's files is damaged", hint="Submit the run again")
        cached = await asyncio.to_thread(self._read, blob_hash)
        if cached is not None:
            return cached
        blob = await self._fetch(blob_hash)
        if blob is None:
            raise AgentRefused(
                f"A part of the run's files, `{blob_hash[:12]}`, is missing on the server", hint="Submit again"
            )
        async with self._storing:
            await asyncio.to_thread(self._verify_and_store, blob_hash, blob)
        return blob

    def _read(self, blob_hash: str) -> bytes | None:
        path = self._folder / blob_hash
        try:
            blob = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return blob if hash_of(blob) == blob_hash else None

    def _verify_and_store(self, blob_hash: str, blob: bytes) -> None:
        if hash_of(blob) != blob_hash:
            raise AgentRefused(
                f"A part of the run's files, `{blob_hash[:12]}`, came damaged", hint="Submit the run again"
            )
        make_private_folder(self._folder)
        if self._bytes is None:
            self._bytes = sum(path.stat().st_size for path in self._folder.iterdir())
        if (self._folder / blob_hash).exists() and self._read(blob_hash) is not None:
            # Wanted by several at once.
            return
        draft = self._folder / f".{blob_hash}"
        try:
            draft.write_bytes(blob)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        draft.rename(self._folder / blob_hash)
        self._bytes += len(blob)
        if self._bytes > self._bytes_max:
            self._prune(self._bytes)

    def _prune(self, size_bytes: int) -> None:
        """Drop what was not used for longest."""
        for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime):
            if size_bytes <= self._bytes_max * PRUNE_TO:
                break
            size_bytes -= path.stat().st_size
            path.unlink()
        self._bytes = size_bytes


async def lay_over(root_hash: str, target: Path, cache: BlobCache) -> int:
    """Put the files that a root names into a folder, in place of those that are there, and take away what it says is
    gone. Returns how many it names.

    Links are made when all else is in place, and what is in the way is removed, so that nothing is ever written
    through a link.

    Raises:
        AgentRefused: a blob is missing, or the list of files is damaged or reaches outside the folder.
        OSError: the disk is full, and the like.
    """
    links: list[FileEntry] = []
    count = 0
    is_empty = not await asyncio.to_thread(os.listdir, target)
    for page_hash in _parsed(page_hashes_of, await cache.get(root_hash)):
        entries = [_checked(entry) for entry in _parsed(entries_of, await cache.get(page_hash))]
        count += len(entries)
        if not is_empty:
            await asyncio.to_thread(_clear, [entry for entry in entries if entry.kind != "folder"], target)
        entries = [entry for entry in entries if entry.kind != "gone"]
        links += [entry for entry in entries if entry.kind == "link"]
        await _write_all([entry for entry in entries if entry.kind != "link"], target, cache)
    await asyncio.to_thread(_make_links, links, target)
    return count


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where a job took away its own permissions. Blocks; does nothing where there is none.

    What another user made in it, as a container's root does, stays where this user may not remove it.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError:
        for parent, names, _ in os.walk(folder):
            for name in names:
                if not os.path.islink(path := os.path.join(parent, name)):
                    with suppress(OSError):
                        os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            log.warning("Some of %s is another user's and stays until root removes it", folder)


def make_empty(folder: Path) -> None:
    """A new folder in place of whatever was there."""
    remove_tree(folder)
    folder.mkdir()


def _clear(entries: list[FileEntry], target: Path) -> None:
    """Remove what is where the entries go, and what is no folder on the way there."""
    for entry in entries:
        path = target
        for name in entry.path.split("/"):
            path = path / name
            if path.is_symlink() or path.is_file():
                path.unlink()
        if path.is_dir():
            remove_tree(path)


def _parsed(parse: Callable[[bytes], list[Part]], blob: bytes) -> list[Part]:
    try:
        return parse(blob)
    except ValueError as error:
        raise AgentRefused("The list of the run's files is damaged", hint="Submit the run again") from error


def _checked(entry: FileEntry) -> FileEntry:
    if not is_safe_path(entry.path) or entry.kind not in KINDS:
        raise AgentRefused(f"The run's files hold the path `{entry.path[:200]}`, which leaves its folder")
    return entry


async def _write_all(entries: list[FileEntry], target: Path, cache: BlobCache) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def write(entry: FileEntry) -> None:
        async with slots:
            await _write(entry, target / entry.path, cache)

    try:
        async with asyncio.TaskGroup() as group:
            for entry in entries:
                group.create_task(write(entry), name=f"writes {entry.path}")
    except ExceptionGroup as errors:
        # The others were cancelled because of it.
        raise errors.exceptions[0] from None


async def _write(entry: FileEntry, path: Path, cache: BlobCache) -> None:
    if entry.kind == "folder":
        await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
        # This user must be able to clean up.
        await asyncio.to_thread(path.chmod, entry.mode & MODE_BITS | 0o700)
        return
    descriptor = await asyncio.to_thread(_create, path)
    try:
        for chunk in entry.chunks:
            await asyncio.to_thread(_append, descriptor, await cache.get(chunk))
        if os.fstat(descriptor).st_size != entry.size_bytes:
            raise AgentRefused(f"The file `{entry.path}` came with another size than announced", hint="Submit again")
        os.fchmod(descriptor, entry.mode & MODE_BITS)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _append(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _make_links(links: list[FileEntry], target: Path) -> None:
    root = os.path.realpath(target)
    for link in links:
        path = target / link.path
        if os.path.realpath(path.parent) != os.path.join(root, os.path.dirname(link.path)).rstrip("/"):
            raise AgentRefused(f"The link `{link.path}` lies behind another link", hint="Leave it out")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(link.target)
    for link in links:
        # An absolute link means the same place everywhere, and Git keeps such links. A relative one is judged only now,
        # since it may lead through another.
        if not os.path.isabs(link.target) and not f"{os.path.realpath(target / link.path)}/".startswith(f"{root}/"):
            raise AgentRefused(
                f"The link `{link.path}` leads to `{link.target}`, outside the run's folder", hint="Leave it out"
            )
