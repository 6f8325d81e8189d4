"""The upload of files in the form of `protocol.files`: only blobs that the server lacks, with bounded memory."""

import os
import stat
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dstack.api._transport import Transport
from dstack.errors import ConfigurationError
from dstack.kit import systems
from dstack.kit.git import is_lfs_pointer
from dstack.kit.text import first_of
from dstack.protocol import routes
from dstack.protocol.files import CHUNK_BYTES, FileEntry, entries_of, hash_of, pages_of, root_of
from dstack.protocol.requests import BlobHashes
from dstack.protocol.views import MissingBlobs

PARALLEL_UPLOADS = 4
HASHES_A_QUESTION = 1000
TRIES = 3
POINTER_BYTES_MAX = 1024
START_BYTES = 2
"""The first bytes of a script."""

Progress = Callable[[int, int], None]
"""A function that is called with the number of bytes on the server so far and the number of all bytes."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file, link or deletion among a job's files."""

    path: str
    """The path in the job's folder."""
    source: Path | bytes | None
    """A local file or link, or contents; None to delete the path from a clone."""
    inside: Path | None = None
    """The folder that a link must not leave."""
    is_tracked: bool = False
    """Whether Git tracks the path: absolute links are then sent as links, as a clone has them."""


class _Changed(Exception):
    """The error for a file that changed between two readings."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.file = file


@dataclass(frozen=True, slots=True)
class _Source:
    """The place of a blob's bytes: a part of a file, or memory."""

    size_bytes: int
    file: Path | None = None
    offset: int = 0
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class _Unfit:
    """Files that a job cannot use."""

    strays: list[Path] = field(default_factory=list)
    """Links to files that are not sent."""
    pointers: list[Path] = field(default_factory=list)
    """Pointers of Git LFS instead of the files themselves."""

    def check(self) -> None:
        """Raise `ConfigurationError` with their names, if there are any."""
        if self.strays:
            raise ConfigurationError(
                f"Links point out of the folder that is sent, to what the job would not have: {first_of(self.strays)}",
                hint="Replace them by what they point to or by relative links, or name them in `.dstackignore`",
            )
        if self.pointers:
            raise ConfigurationError(
                f"Git LFS has only pointers here, not the files themselves: {first_of(self.pointers)}",
                hint="`git lfs pull` fetches them; name in `.dstackignore` those that the run does not need",
            )


@dataclass(slots=True)
class Package:
    """The result of reading items once: the hash of their root, and the place of each blob's bytes."""

    root: str = ""
    pages: dict[str, list[str]] = field(default_factory=dict)
    """The chunks that each page names."""
    sources: dict[str, _Source] = field(default_factory=dict)

    def blob(self, name: str) -> bytes:
        """Return the bytes of a hash; bytes in a file are read again."""
        source = self.sources[name]
        if source.file is None:
            return source.content
        try:
            with source.file.open("rb") as file:
                file.seek(source.offset)
                content = file.read(source.size_bytes)
        except OSError as error:
            raise _Changed(source.file) from error
        if hash_of(content) != name:
            raise _Changed(source.file)
        return content


@dataclass(frozen=True, slots=True)
class Size:
    """The number and total size of files, before any of them is read."""

    files: int
    bytes: int


def measure(items: Iterable[Item]) -> Size:
    """Return the number and total size of the files to send; a deleted file counts as a file of 0 bytes."""
    sizes = {item.path: _size_of(item.source) for item in items}
    return Size(len(sizes), sum(sizes.values()))


def _size_of(source: Path | bytes | None) -> int:
    if isinstance(source, Path):
        with suppress(OSError):
            return os.lstat(source).st_size
        return 0
    return len(source or b"")


def upload(
    transport: Transport, project: str, list_items: Callable[[], Iterable[Item]], progress: Progress | None = None
) -> str:
    """Send files, and return the hash of their root.

    Args:
        transport: the connection to the server.
        project: the project that gets the blobs.
        list_items: returns the items to send; called again if a file changed during the upload.
        progress: called with the number of bytes on the server so far and the number of all bytes.

    Raises:
        ConfigurationError: a link leaves its folder, or a file cannot be read or does not stop changing.
    """
    attempt = 1
    while True:
        try:
            package = pack(list_items())
            _send(transport, project, package, progress or (lambda sent_bytes, all_bytes: None))
            return package.root
        except _Changed as error:
            if attempt == TRIES:
                raise ConfigurationError(
                    f"`{error.file}` does not stop changing while it is read",
                    hint="Stop what writes it, or name it in `.dstackignore`",
                ) from error
            attempt += 1


def pack(items: Iterable[Item]) -> Package:
    """Read files and compute the hashes of their blobs. The same files always have the same root."""
    package = Package()
    unfit = _Unfit()
    entries = {item.path: _entry(package, item, unfit) for item in items}
    unfit.check()
    for page in pages_of(entry for entry in entries.values() if entry is not None):
        chunks = [chunk for entry in entries_of(page) for chunk in entry.chunks]
        package.pages[_keep(package, page)] = chunks
    package.root = _keep(package, root_of(package.pages))
    return package


def _entry(package: Package, item: Item, unfit: _Unfit) -> FileEntry | None:
    """Return the item's entry in the manifest; None for what cannot be sent, such as a pipe."""
    match item.source:
        case None:
            return FileEntry(item.path, "gone", 0, 0, ())
        case bytes() as content:
            starts = range(0, len(content), CHUNK_BYTES)
            chunks = tuple(_keep(package, content[start : start + CHUNK_BYTES]) for start in starts)
            return FileEntry(item.path, "file", 0o644, len(content), chunks)
        case file:
            try:
                return _entry_of_file(package, item, file, unfit)
            except OSError as error:
                raise ConfigurationError(
                    f"`{file}` cannot be read: {error.strerror}", hint="Name it in `.dstackignore` to leave it out"
                ) from error


def _entry_of_file(package: Package, item: Item, file: Path, unfit: _Unfit) -> FileEntry | None:
    mode = os.lstat(file).st_mode
    if stat.S_ISLNK(mode):
        target = os.readlink(file).replace(os.sep, "/")
        if item.inside is not None and _strays(file, target, item.inside, is_tracked=item.is_tracked):
            unfit.strays.append(file)
        return FileEntry(item.path, "link", 0o777, 0, (), target)
    if not stat.S_ISREG(mode):
        return None
    entry = _read(package, item.path, file)
    if item.inside is not None and entry.size_bytes < POINTER_BYTES_MAX and is_lfs_pointer(file):
        unfit.pointers.append(file)
    return entry


def _is_in(file: Path, folder: Path) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def _strays(file: Path, target: str, folder: Path, *, is_tracked: bool) -> bool:
    return not is_tracked if os.path.isabs(target) else not _is_in(file, folder)


def _keep(package: Package, content: bytes) -> str:
    name = hash_of(content)
    package.sources[name] = _Source(len(content), content=content)
    return name


def _read(package: Package, path: str, source: Path) -> FileEntry:
    with source.open("rb") as file:
        before = os.fstat(file.fileno())
        offset = 0
        names = []
        start = b""
        while chunk := file.read(CHUNK_BYTES):
            start = start or chunk[:START_BYTES]
            names.append(hash_of(chunk))
            package.sources.setdefault(names[-1], _Source(len(chunk), source, offset))
            offset += len(chunk)
        after = os.fstat(file.fileno())
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or offset != after.st_size:
        raise _Changed(source)
    return FileEntry(path, "file", systems.mode_of(before, start), offset, tuple(names))


def _send(transport: Transport, project: str, package: Package, progress: Progress) -> None:
    """Send the blobs that the server lacks: chunks first, then the pages that name them, then the root.

    The server checks the chunks of the pages that it has. So only the chunks of new pages are asked for by name.
    """
    todo = _missing(transport, project, [package.root], list(package.pages))
    new_chunks = [chunk for page, chunks in package.pages.items() if page in todo for chunk in chunks]
    todo |= _missing(transport, project, list(dict.fromkeys(new_chunks)), [])
    order = [*(name for name in todo if name not in package.pages and name != package.root)]
    order += [name for name in (*package.pages, package.root) if name in todo]
    all_bytes = sum(source.size_bytes for source in package.sources.values())
    sent_bytes = all_bytes - sum(package.sources[name].size_bytes for name in order)

    given_up = threading.Event()

    def put(name: str) -> int:
        transport.outlast(routes.PUT_BLOB, package.blob(name), given_up=given_up, project=project, hash=name)
        return package.sources[name].size_bytes

    progress(sent_bytes, all_bytes)
    with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="dstack-upload") as pool:
        try:
            for put_bytes in pool.map(put, order):
                sent_bytes += put_bytes
                progress(sent_bytes, all_bytes)
        finally:
            given_up.set()


def _missing(transport: Transport, project: str, hashes: list[str], pages: list[str]) -> set[str]:
    """Return the blobs that the server lacks, and the missing chunks of the pages that it has."""
    missing: set[str] = set()
    for start in range(0, max(len(hashes), len(pages)), HASHES_A_QUESTION):
        part = slice(start, start + HASHES_A_QUESTION)
        body = BlobHashes(hashes=hashes[part], pages=pages[part])
        reply: MissingBlobs = transport.outlast(routes.MISSING_BLOBS, body, project=project)
        missing.update(reply.missing)
    return missing
