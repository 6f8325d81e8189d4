"""Logs in a bucket: what is appended becomes an object that never changes, named by the bytes that it holds.

A bucket does not know appending, and two servers may store a stream at once for a moment, when one has not heard yet
that the other took over. So the name of each object says from which byte to which it reaches. What two servers store as
one byte is the same byte: overlaps are harmless, and a stream is as long as its objects reach without a gap. Once many
small ones have come, they are stored again as a large one, and deleted after that.

Behind the bytes of an object come its marks (`logs.marks`). A gap is an object, too, which holds no bytes but a mark.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import takewhile
from threading import Lock
from typing import NamedTuple, TypeVar

from dstack.bucket import Bucket
from dstack.errors import StorageUnavailable
from dstack.logs.base import LogStore, Part, Stream
from dstack.logs.gaps import Gap, with_gap
from dstack.logs.marks import Mark, marks_of, reaches, thinned

T = TypeVar("T")

PIECE_BYTES_MAX = 16 << 20
"""No object holds more of a stream."""

MERGE_COUNT = 16
"""As many small objects at the end of a stream become one."""

SMALL_BYTES = (64 << 10, PIECE_BYTES_MAX // MERGE_COUNT)
"""What is small: below the first, lines that trickle in; below the second, what has been merged of them."""

STREAMS_KNOWN_MAX = 10_000

TRIES = 5
"""How often it is looked again for objects that another server has just merged."""

GAP = ".gap"
"""How the names of gaps end."""


class _Piece(NamedTuple):
    """What an object holds of its stream."""

    start: int
    end: int
    is_gap: bool = False

    @property
    def size_bytes(self) -> int:
        """How many bytes of the stream are in the object."""
        return 0 if self.is_gap else self.end - self.start


class _Vanished(Exception):
    """Another server has merged this object, or deleted the log."""


class LogBucket(LogStore):
    """The streams below `logs/` of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: dict[Stream, list[_Piece]] = {}
        """What the streams consisted of when last looked at. What is added since is found by looking again."""
        self._lock = Lock()

    def append(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        of = job_id, stream
        pieces = self._reaching(of, offset)
        end = _end_of(pieces)
        while fresh := data[end - offset :][:PIECE_BYTES_MAX]:
            piece = _Piece(end, end + len(fresh))
            self._bucket.put(_name(of, piece), fresh + Mark(end, at).packed())
            pieces = [*pieces, piece]
            end = piece.end
        self._remember(of, self._merged(of, pieces))
        return end

    def skip(self, job_id: str, stream: str, gap: Gap, at: float) -> int:
        of = job_id, stream
        self._look(of)  # a gap hides what another server has stored there
        pieces = self._reaching(of, gap.start)
        end = _end_of(pieces)
        if gap.end > end:
            pieces = [*pieces, self._put_gap(of, Gap(end, gap.end), at)]
            self._remember(of, pieces)
        return _end_of(pieces)

    def drop(self, job_id: str, stream: str, end: int) -> None:
        self._retried((job_id, stream), lambda: self._drop((job_id, stream), end))

    def size(self, job_id: str, stream: str) -> int:
        return _end_of(self._look((job_id, stream)))

    def gaps(self, job_id: str, stream: str) -> Sequence[Gap]:
        gaps: list[Gap] = []
        for piece in self._pieces((job_id, stream)):
            if piece.is_gap:
                gaps = with_gap(gaps, Gap(piece.start, piece.end))
        return gaps

    def read(self, job_id: str, stream: str, offset: int, limit: int) -> Part:
        return self._retried((job_id, stream), lambda: self._read((job_id, stream), offset, limit))

    def offset_at(self, job_id: str, stream: str, start: datetime) -> int:
        return self._retried((job_id, stream), lambda: self._offset_at((job_id, stream), start))

    def delete(self, job_id: str) -> None:
        self._bucket.delete([found.name for found in self._bucket.list(f"logs/{job_id}/")])
        with self._lock:
            for of in [of for of in self._known if of[0] == job_id]:
                del self._known[of]

    def _reaching(self, of: Stream, offset: int) -> list[_Piece]:
        """What the stream consists of.

        Raises:
            ValueError: it does not reach so far.
        """
        pieces = self._pieces(of)
        if offset > _end_of(pieces):
            pieces = self._look(of)
        if offset > _end_of(pieces):
            raise ValueError(f"bytes {_end_of(pieces)} to {offset} of {of[0]}/{of[1]} are missing")
        return pieces

    def _put_gap(self, of: Stream, gap: Gap, at: float) -> _Piece:
        piece = _Piece(*gap, is_gap=True)
        self._bucket.put(_name(of, piece), Mark(gap.start, at).packed())
        return piece

    def _drop(self, of: Stream, end: int) -> None:
        """Whole objects go; one that reaches beyond `end` stays as it is, and is read from there on."""
        pieces = self._look(of)
        gone = [piece for piece in pieces if piece.end <= end]
        at = self._marks(of, gone[-1])[-1].at if gone else 0.0
        gap = self._put_gap(of, Gap(0, end), at)
        stored = (_piece_of(one.name) for one in self._bucket.list(_folder(of)))
        before = [piece for piece in takewhile(lambda piece: piece.start < end, stored) if piece.end <= end]
        self._bucket.delete([_name(of, piece) for piece in before if piece != gap])
        self._remember(of, _chain([gap], pieces))

    def _read(self, of: Stream, offset: int, limit: int) -> Part:
        pieces = self._pieces(of)
        if offset >= _end_of(pieces):
            pieces = self._look(of)
        for piece in pieces:
            if piece.end > offset and piece.is_gap:
                offset = piece.end
            elif piece.end > offset:
                end = min(offset + limit, piece.end)
                return Part(offset, self._get(of, piece, offset - piece.start, end - piece.start) if limit else b"")
        return Part(offset, b"")

    def _offset_at(self, of: Stream, start: datetime) -> int:
        pieces = self._look(of)
        number = bisect_right(pieces, False, key=lambda piece: reaches(self._marks(of, piece)[-1], start))
        if number == len(pieces):
            return _end_of(pieces)
        return next(mark.offset for mark in self._marks(of, pieces[number]) if reaches(mark, start))

    def _merged(self, of: Stream, pieces: list[_Piece]) -> list[_Piece]:
        """The pieces, small ones at the end merged where there are enough of them. Nothing depends on it."""
        try:
            for limit_bytes in SMALL_BYTES:
                tail = _small_tail(pieces, limit_bytes)
                if len(tail) >= MERGE_COUNT:
                    before, after = pieces[: -len(tail)], tail[MERGE_COUNT:]
                    pieces = [*before, self._merge(of, tail[:MERGE_COUNT]), *after]
        except (StorageUnavailable, _Vanished):
            return []
        return pieces

    def _merge(self, of: Stream, pieces: Sequence[_Piece]) -> _Piece:
        data, marks = bytearray(), list[Mark]()
        whole = _Piece(pieces[0].start, pieces[-1].end)
        for piece, stored in zip(pieces, self._bucket.map(lambda piece: self._get(of, piece), pieces), strict=True):
            data += stored[whole.start + len(data) - piece.start : piece.size_bytes]
            marks += marks_of(stored[piece.size_bytes :])
        packed = b"".join(mark.packed() for mark in thinned(marks))
        self._bucket.put(_name(of, whole), bytes(data) + packed)
        self._bucket.delete([_name(of, piece) for piece in pieces])
        return whole

    def _marks(self, of: Stream, piece: _Piece) -> list[Mark]:
        return [*marks_of(self._get(of, piece, piece.size_bytes))]

    def _get(self, of: Stream, piece: _Piece, start: int = 0, end: int | None = None) -> bytes:
        data = self._bucket.get(_name(of, piece), start, end)
        if data is None:
            raise _Vanished
        return data

    def _retried(self, of: Stream, function: Callable[[], T]) -> T:
        for _ in range(TRIES):
            try:
                return function()
            except _Vanished:
                self._remember(of, [])
        raise StorageUnavailable(f"The log of the job {of[0]} changes faster than it can be read")

    def _pieces(self, of: Stream) -> list[_Piece]:
        with self._lock:
            known = self._known.get(of)
        return known or self._look(of)

    def _look(self, of: Stream) -> list[_Piece]:
        """What the stream consists of now. What lies far behind its end is not listed again and again."""
        with self._lock:
            known = self._known.get(of, [])
        settled = [piece for piece in known if piece.end <= _end_of(known) - 2 * PIECE_BYTES_MAX]
        # Whatever reaches beyond the settled end begins at most a piece before it.
        after = f"{_folder(of)}{max(0, _end_of(settled) - PIECE_BYTES_MAX):015d}"
        pieces = self._listed(of, settled, after)
        if _end_of(pieces) < _end_of(known):
            # No stream shrinks: another server has stored on, and has dropped what would have been found here.
            pieces = self._listed(of, [], _folder(of))
        return self._remember(of, pieces)

    def _listed(self, of: Stream, settled: Sequence[_Piece], after: str) -> list[_Piece]:
        return _chain(settled, (_piece_of(one.name) for one in self._bucket.list(_folder(of), after)))

    def _remember(self, of: Stream, pieces: list[_Piece]) -> list[_Piece]:
        with self._lock:
            self._known.pop(of, None)
            if pieces:
                self._known[of] = pieces
            while len(self._known) > STREAMS_KNOWN_MAX:
                del self._known[next(iter(self._known))]
        return pieces


def _chain(settled: Sequence[_Piece], found: Iterable[_Piece]) -> list[_Piece]:
    """Those pieces that make up the stream, one after the other, up to the first gap."""
    chain = [*settled]
    # What was dropped is lost even where a part of it is left in an object that reaches beyond.
    for piece in sorted(found, key=lambda piece: (piece.start, not piece.is_gap, -piece.end)):
        if piece.start > _end_of(chain):
            break
        if piece.end > _end_of(chain):
            chain.append(piece)
    return chain


def _small_tail(pieces: Sequence[_Piece], limit_bytes: int) -> list[_Piece]:
    small = takewhile(lambda piece: piece.size_bytes < limit_bytes and not piece.is_gap, reversed(pieces))
    return [*small][::-1]


def _end_of(pieces: Sequence[_Piece]) -> int:
    return pieces[-1].end if pieces else 0


def _folder(of: Stream) -> str:
    return f"logs/{of[0]}/{of[1]}/"


def _name(of: Stream, piece: _Piece) -> str:
    return f"{_folder(of)}{piece.start:015d}-{piece.end:015d}{GAP if piece.is_gap else ''}"


def _piece_of(name: str) -> _Piece:
    start, _, end = name.removesuffix(GAP).rpartition("/")[2].partition("-")
    return _Piece(int(start), int(end), name.endswith(GAP))
