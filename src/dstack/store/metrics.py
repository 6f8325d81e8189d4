"""What jobs used: of each job a row for each ten minutes, its points packed.

Ten thousand jobs make a thousand points a second. As rows of their own these would be 3.6 million in an hour, each with
a key larger than what it says. Packed, an hour of a job is 6 or 7 rows, a point costs 12 bytes and 8 for each card, and
what comes within a while for many jobs is one statement of updates. Old rows are deleted when a job begins a new one,
so that what is kept of running jobs is bounded without anybody looking for it. Files would need a way of their own to
be where all servers reach them; this way the database already is.

A point is known by its job and its time: one that comes twice is there once, in whatever order points come.
"""

import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from sqlalchemy import bindparam, delete, insert, select, update

from dstack.protocol.agent import GpuPoint, Point
from dstack.store.tables import metrics
from dstack.store.tx import Tx

SPAN = timedelta(minutes=10)
KEEP = timedelta(hours=1)
"""How much of a job is kept at least, back from its latest point."""
POINTS_MAX = 600
"""In a row, whatever an agent says."""

_SPAN_S = SPAN.total_seconds()
_HEAD = struct.Struct("<B")
"""Of a row: how many cards its points are about. All points of a job are about the same ones."""

_ROWS = select(metrics).where(
    metrics.c.job_id.in_(bindparam("job_ids", expanding=True)),
    metrics.c.starts_at.in_(bindparam("starts", expanding=True)),
)
_OF_JOB = (
    select(metrics)
    .where(metrics.c.job_id == bindparam("job_id"), metrics.c.starts_at >= bindparam("since"))
    .order_by(metrics.c.starts_at)
)
_LATEST = select(metrics).where(metrics.c.job_id == bindparam("job_id")).order_by(metrics.c.starts_at.desc()).limit(1)
_INSERT = insert(metrics)
_UPDATE = (
    update(metrics)
    .where(metrics.c.job_id == bindparam("of_job"), metrics.c.starts_at == bindparam("of_start"))
    .values(points=bindparam("points"))
)
_TRIM = delete(metrics).where(metrics.c.job_id == bindparam("of_job"), metrics.c.starts_at < bindparam("before"))


def add(tx: Tx, points: Mapping[str, Sequence[Point]], keep: Mapping[str, timedelta]) -> None:
    """Keep points of some jobs, which must be on record.

    Args:
        keep: of which jobs more than `KEEP` is to be kept, and how much.
    """
    come: dict[tuple[str, datetime], list[Point]] = {}
    for job_id, some in points.items():
        for point in some:
            come.setdefault((job_id, _start_of(point.at)), []).append(point)
    starts = {start for _, start in come}
    rows = tx.select(_ROWS, {"job_ids": list(points), "starts": list(starts)})
    known = {(row.job_id, row.starts_at): row.points for row in rows}
    packed = {key: merged(known.get(key), some, key[1].timestamp()) for key, some in come.items()}
    changed = [key for key in packed if key in known and packed[key] != known[key]]
    born = [key for key in packed if key not in known]
    if changed:
        tx.change(_UPDATE, [{"of_job": job, "of_start": start, "points": packed[job, start]} for job, start in changed])
    if born:
        tx.change(_INSERT, [{"job_id": job, "starts_at": start, "points": packed[job, start]} for job, start in born])
        tx.change(_TRIM, [{"of_job": job, "before": start - keep.get(job, KEEP)} for job, start in born])


def _start_of(at: float) -> datetime:
    return datetime.fromtimestamp(at // _SPAN_S * _SPAN_S, UTC)


def read(tx: Tx, job_id: str, back: timedelta = KEEP) -> list[Point]:
    """The points of a job, in order: as far back from the latest, by its host's clock."""
    latest = tx.select(_LATEST, {"job_id": job_id}).one_or_none()
    if latest is None:
        return []
    end = unpacked(latest.points, latest.starts_at.timestamp())[-1].at
    begin = end - back.total_seconds()
    rows = tx.select(_OF_JOB, {"job_id": job_id, "since": _start_of(begin)})
    found = (point for row in rows for point in unpacked(row.points, row.starts_at.timestamp()))
    return [point for point in found if point.at >= begin]


def forget(tx: Tx, job_ids: Collection[str]) -> None:
    """Delete all points of some jobs."""
    tx.change(delete(metrics).where(metrics.c.job_id.in_(job_ids)))


def merged(packed: bytes | None, more: Sequence[Point], start_s: float) -> bytes:
    """A row's points and others of the same span.

    Args:
        start_s: when the span begins.

    Examples:
        >>> merged(merged(None, [Point(1.0, 0.5, 8.0)], 0.0), [Point(1.0, 0.5, 8.0)], 0.0).hex()
        '00e80300000000003f00000041'
    """
    cards = _HEAD.unpack_from(packed)[0] if packed else len(more[0].gpus)
    record = _record(cards)
    last_ms = record.unpack_from(packed, len(packed) - record.size)[0] if packed else -1
    mine = sorted((one for one in more if len(one.gpus) == cards), key=lambda one: one.at)
    if mine and _milliseconds(mine[0].at, start_s) > last_ms:  # as nearly always: no need to look at those before
        bodies = (packed or _HEAD.pack(cards)) + b"".join(_packed(one, start_s, record) for one in _once(mine))
    else:
        both = {one.at: one for one in [*unpacked(packed, start_s), *mine]} if packed else {one.at: one for one in mine}
        bodies = _HEAD.pack(cards) + b"".join(_packed(both[at], start_s, record) for at in sorted(both))
    return bodies[: _HEAD.size + POINTS_MAX * record.size]


def _once(points: Iterable[Point]) -> Iterable[Point]:
    return {one.at: one for one in points}.values()


def unpacked(packed: bytes, start_s: float) -> list[Point]:
    """The points of a row, in order."""
    found = []
    for at_ms, *numbers in _record(_HEAD.unpack_from(packed)[0]).iter_unpack(memoryview(packed)[_HEAD.size :]):
        cpu_cores, memory_mib, *rest = [None if math.isnan(number) else round(number, 3) for number in numbers]
        gpus = tuple(GpuPoint(*pair) for pair in zip(rest[::2], rest[1::2], strict=True))
        found.append(Point(round(start_s + at_ms / 1000, 3), cpu_cores, memory_mib, gpus))
    return found


@cache
def _record(cards: int) -> struct.Struct:
    """Milliseconds since the span began, and numbers with seven digits; None is no number."""
    return struct.Struct(f"<I{2 + 2 * cards}f")


def _milliseconds(at: float, start_s: float) -> int:
    return round((at - start_s) * 1000)


def _packed(point: Point, start_s: float, record: struct.Struct) -> bytes:
    pairs = [number for gpu in point.gpus for number in (gpu.utilization_percent, gpu.memory_mib)]
    numbers = [math.nan if number is None else number for number in (point.cpu_cores, point.memory_mib, *pairs)]
    return record.pack(_milliseconds(point.at, start_s), *numbers)
