"""How a folder reaches the server: as `protocol.files` says, only what is not there yet, with bounded memory."""

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dstack.api import _folders
from dstack.api._transport import Transport
from dstack.errors import ConfigurationError
from dstack.protocol import routes
from dstack.protocol.files import CHUNK_BYTES, FileEntry, hash_of, pages_of, root_of
from dstack.protocol.requests import BlobHashes
from dstack.protocol.views import MissingBlobs

PARALLEL_UPLOADS = 4
HASHES_A_QUESTION = 1000
TRIES = 3
LINKS_SHOWN = 3

Progress = Callable[[int, int], None]
"""Told the bytes that are there by now, and all bytes."""


class _Changed(Exception):
    """A file was not the same at its second reading."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a blob's bytes are: a part of a file, or in memory."""

    size_bytes: int
    path: str = ""
    offset: int = 0
    content: bytes | None = None


@dataclass(slots=True)
class Package:
    """A folder read once: the hash of its root, and where each blob's bytes are."""

    folder: Path
    root: str = ""
    sources: dict[str, _Source] = field(default_factory=dict)

    def blob(self, name: str) -> bytes:
        """The bytes under a hash, read again where they are in a file."""
        source = self.sources[name]
        if source.content is not None:
            return source.content
        try:
            with (self.folder / source.path).open("rb") as file:
                file.seek(source.offset)
                content = file.read(source.size_bytes)
        except OSError as error:
            raise _Changed(source.path) from error
        if hash_of(content) != name:
            raise _Changed(source.path)
        return content


def upload(transport: Transport, project: str, folder: Path, progress: Progress | None = None) -> str:
    """Send a folder's files; returns the hash of its root.

    Args:
        transport: the way to the server.
        project: whose blobs they become.
        folder: what to send; `.git` and ignored files are left out, links are kept as links.
        progress: told how far it is.

    Raises:
        ConfigurationError: a link points out of the folder, a file cannot be read or does not stop changing.
    """
    attempt = 1
    while True:
        try:
            package = pack(folder)
            _send(transport, project, package, progress or (lambda sent_bytes, all_bytes: None))
            return package.root
        except _Changed as error:
            if attempt == TRIES:
                raise ConfigurationError(
                    f"`{folder / error.path}` does not stop changing while it is read",
                    hint="Stop what writes it, or name it in `.gitignore`",
                ) from error
            attempt += 1


def pack(folder: Path) -> Package:
    """Read a folder and name all of its blobs; the same files always give the same root."""
    package = Package(folder)
    entries = []
    strays = []
    inside = os.path.realpath(folder)
    for path in _folders.files_in(folder):
        try:
            mode = os.lstat(folder / path).st_mode
            if stat.S_ISLNK(mode):
                target = os.readlink(folder / path)
                entries.append(FileEntry(path, "link", 0o777, 0, (), target))
                if os.path.isabs(target) or not _is_in(os.path.realpath(folder / path), inside):
                    strays.append(path)
            elif stat.S_ISREG(mode):
                entries.append(_file_entry(package, path))
        except OSError as error:
            raise ConfigurationError(
                f"`{folder / path}` cannot be read: {error.strerror}", hint="Name it in `.gitignore` to leave it out"
            ) from error
    if strays:
        raise _strays_error(folder, strays)
    page_names = [_keep(package, page) for page in pages_of(entries)]
    package.root = _keep(package, root_of(page_names))
    return package


def _is_in(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _strays_error(folder: Path, strays: list[str]) -> ConfigurationError:
    names = ", ".join(f"`{path}`" for path in strays[:LINKS_SHOWN])
    more = f" and {len(strays) - LINKS_SHOWN} more" if len(strays) > LINKS_SHOWN else ""
    return ConfigurationError(
        f"Links in `{folder}` point out of it, to what the job would not have: {names}{more}",
        hint="Replace them by what they point to or by relative links, or name them in `.gitignore`",
    )


def _keep(package: Package, content: bytes) -> str:
    name = hash_of(content)
    package.sources[name] = _Source(len(content), content=content)
    return name


def _file_entry(package: Package, path: str) -> FileEntry:
    with (package.folder / path).open("rb") as file:
        before = os.fstat(file.fileno())
        offset = 0
        names = []
        while chunk := file.read(CHUNK_BYTES):
            names.append(hash_of(chunk))
            package.sources.setdefault(names[-1], _Source(len(chunk), path, offset))
            offset += len(chunk)
        after = os.fstat(file.fileno())
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or offset != after.st_size:
        raise _Changed(path)
    return FileEntry(path, "file", stat.S_IMODE(before.st_mode) & 0o777, offset, tuple(names))


def _send(transport: Transport, project: str, package: Package, progress: Progress) -> None:
    """Ask what is missing and send that, batch by batch."""
    all_bytes = sum(source.size_bytes for source in package.sources.values())
    all_names = list(package.sources)
    sent_bytes = 0

    def put(name: str) -> int:
        transport.call(routes.PUT_BLOB, package.blob(name), project=project, hash=name)
        return package.sources[name].size_bytes

    with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="dstack-upload") as pool:
        for start in range(0, len(all_names), HASHES_A_QUESTION):
            names = all_names[start : start + HASHES_A_QUESTION]
            reply: MissingBlobs = transport.call(routes.MISSING_BLOBS, BlobHashes(hashes=names), project=project)
            missing = set(reply.missing)
            sent_bytes += sum(package.sources[name].size_bytes for name in names if name not in missing)
            progress(sent_bytes, all_bytes)
            for put_bytes in pool.map(put, [name for name in names if name in missing]):
                sent_bytes += put_bytes
                progress(sent_bytes, all_bytes)
