"""How a folder travels: a manifest of files whose contents are chunks named by their SHA-256.

A folder becomes *entries* (path, mode, chunks), sorted by path and written as JSON lines. The lines are cut into
*pages* at boundaries that the contents choose, so that one changed file changes one page, not all that follow. The
*root* lists the pages. Chunks, pages and the root are all *blobs*: bytes under the hex SHA-256 of those bytes. With
the root's hash, everything else can be fetched and verified.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CHUNK_BYTES = 1 << 20
"""A file is cut every MiB; its last chunk may be shorter."""

BLOB_BYTES_MAX = 4 << 20
"""No blob is larger. A page holds about `PAGE_ENTRIES` lines; the root of a million files stays below this."""

PAGE_ENTRIES = 64
"""The mean number of entries on a page."""
PAGE_ENTRIES_MAX = 128
"""The greatest number, so that one changed file never moves much."""


KINDS = ("file", "link", "folder", "gone")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file, symbolic link or empty folder, or the lack of one."""

    path: str
    """Relative, with `/`; never absolute, never with `..`."""
    kind: str
    """One of `KINDS`. An entry `gone` removes an existing file."""
    mode: int
    """Permission bits."""
    size_bytes: int
    chunks: tuple[str, ...]
    """Hashes of a file's contents in order."""
    target: str = ""
    """Where a link points to."""

    def to_line(self) -> bytes:
        row = [self.path, self.kind, self.mode, self.size_bytes, list(self.chunks), self.target]
        return json.dumps(row, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> "FileEntry":
        """Return the entry in a line of a page.

        Raises:
            ValueError: there is something else in it.
        """
        try:
            row = json.loads(line)
        except RecursionError:
            raise ValueError("lists lie too deep in each other") from None
        match row:
            case [str(path), str(kind), int(mode), int(size_bytes), list(chunks), str(target)] if all(
                isinstance(chunk, str) and is_hash(chunk) for chunk in chunks
            ):
                return cls(path, kind, mode, size_bytes, tuple(chunks), target)
        raise ValueError("this is not an entry of a manifest")


def hash_of(blob: bytes) -> str:
    """The name of a blob: 64 hex digits."""
    return hashlib.sha256(blob).hexdigest()


_HEX_DIGITS = frozenset("0123456789abcdef")


def is_hash(text: str) -> bool:
    """Whether a text can be the name of a blob."""
    return len(text) == 64 and _HEX_DIGITS.issuperset(text)


def pages_of(entries: Iterable[FileEntry]) -> Iterator[bytes]:
    """The entries, sorted by path, as pages. The hash of a line decides whether its page ends."""
    lines: list[bytes] = []
    for entry in sorted(entries, key=lambda entry: entry.path):
        line = entry.to_line()
        lines.append(line)
        ends_here = int.from_bytes(hashlib.sha256(line).digest()[:4]) % PAGE_ENTRIES == 0
        if ends_here or len(lines) == PAGE_ENTRIES_MAX or sum(map(len, lines)) > CHUNK_BYTES:
            yield b"".join(lines)
            lines = []
    if lines:
        yield b"".join(lines)


def root_of(page_hashes: Iterable[str]) -> bytes:
    """The root blob: one page hash a line."""
    return "".join(f"{page_hash}\n" for page_hash in page_hashes).encode()


def page_hashes_of(root: bytes) -> list[str]:
    """The hashes of the pages that a root lists, in order."""
    return root.decode("ascii").split()


def entries_of(page: bytes) -> list[FileEntry]:
    """Return the entries of one page, in order.

    Raises:
        ValueError: the blob is not a page.
    """
    return [FileEntry.of_line(line) for line in page.splitlines()]


ABSOLUTE = ".dstack-absolute"
"""The folder of those files of a run that shall lie elsewhere than in its own: `/etc/x` is `.dstack-absolute/etc/x`."""


def place_of(path: str) -> str:
    """Return where a path of a job lies among the run's files on the way.

    Examples:
        >>> place_of("src"), place_of("/app")
        ('src', '.dstack-absolute/app')
    """
    return f"{ABSOLUTE}{path}" if path.startswith("/") else path


def is_safe_path(path: str) -> bool:
    """Whether an entry's path stays inside the folder it is unpacked into."""
    parts = path.split("/")
    return (
        bool(path)
        and not path.startswith("/")
        and "\0" not in path
        and all(part not in ("", ".", "..") for part in parts)
    )
