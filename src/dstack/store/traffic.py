"""The sums of services, as data planes report them: a row for each service, data plane and ten minutes.

A row has the sums before it and one point for each ten seconds in which something changed, packed as differences. The
latest row of a data plane is kept as long as the service, since it has the sums of all its life.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import msgpack
from sqlalchemy import Row, bindparam, delete, exists, insert, or_, select, update

from dstack.domain.traffic import STEP, Sums
from dstack.protocol.proxy import LATENCIES_S
from dstack.store import wakes
from dstack.store.tables import runs, traffic
from dstack.store.tx import Tx

Key = tuple[str, str]
"""The ids of a run and of a data plane's life."""

SPAN = timedelta(minutes=10)
KEEP = timedelta(hours=1)
"""The time for which points are kept."""

SOURCES_MAX = 100
"""The bound of the data planes of a service. It is reached where a data plane crashes again and again."""
CLASSES = len(LATENCIES_S) + 1
EARLIER = "earlier"
"""The source of the sums of those before."""

_SPAN_S, _STEP_S = SPAN.total_seconds(), STEP.total_seconds()
_rows = msgpack.Decoder(list[list[int]])

_ON_RECORD = select(runs.c.id, runs.c.scale).where(runs.c.id.in_(bindparam("run_ids", expanding=True)))
_later = traffic.alias()
_IS_LATEST = ~exists().where(
    _later.c.run_id == traffic.c.run_id, _later.c.source == traffic.c.source, _later.c.starts_at > traffic.c.starts_at
)
_LATEST = select(traffic).where(traffic.c.run_id.in_(bindparam("run_ids", expanding=True)), _IS_LATEST)
_SINCE = (
    select(traffic)
    .where(
        traffic.c.run_id.in_(bindparam("run_ids", expanding=True)),
        or_(traffic.c.starts_at >= bindparam("since"), _IS_LATEST),
    )
    .order_by(traffic.c.run_id, traffic.c.source, traffic.c.starts_at)
)
_INSERT = insert(traffic).values(
    run_id=bindparam("of_run"),
    source=bindparam("of_source"),
    starts_at=bindparam("of_start"),
    points=bindparam("points"),
)
_UPDATE = (
    update(traffic)
    .where(
        traffic.c.run_id == bindparam("of_run"),
        traffic.c.source == bindparam("of_source"),
        traffic.c.starts_at == bindparam("of_start"),
    )
    .values(points=bindparam("points"))
)
_TRIM = delete(traffic).where(
    traffic.c.run_id == bindparam("of_run"), traffic.c.starts_at < bindparam("before"), ~_IS_LATEST
)


def add(tx: Tx, reported: Mapping[Key, Sums]) -> None:
    """Keep what data planes have reported of some services, and wake those that scale.

    Those that are not on record are left out.
    """
    rows = tx.select(_ON_RECORD, {"run_ids": sorted({run_id for run_id, _ in reported})}).all()
    wakes.add_many(tx, [("run", row.id) for row in rows if row.scale is not None])
    on_record = {row.id for row in rows}
    reported = {key: sums for key, sums in reported.items() if key[0] in on_record}
    latest = _latest(tx, {run_id for run_id, _ in reported})
    changed, born = [], []
    for key, sums in reported.items():
        row = latest.get(key)
        known = [] if row is None else unpacked(row.points, row.starts_at)
        if known and sums.requests < known[-1].requests:
            continue  # a report that was overtaken: sums only grow
        sums = replace(sums, at=max(sums.at, known[-1].at)) if known else sums
        start = start_of(sums.at)
        if row is not None and row.starts_at >= start:
            changed.append(_values(key, row.starts_at, with_point(known, sums)))
        else:
            born.append(_values(key, start, [_before(known, sums, start.timestamp()), sums]))
    if changed:
        tx.change(_UPDATE, changed)
    if born:
        tx.change(_INSERT, born)
        tx.change(_TRIM, [{"of_run": one["of_run"], "before": one["of_start"] - KEEP} for one in born])
    for run_id in {run_id for run_id, source in reported.keys() - latest.keys()}:
        _merge_earlier(tx, run_id)


def _before(known: Sequence[Sums], sums: Sums, start: float) -> Sums:
    """Return the point that begins a row: the sums before it, and the even share of those that are late."""
    before = known[-1] if known else Sums(start)
    begins = replace(before, at=start, in_flight=0, held=0, is_late=False)
    if not sums.is_late or not known:
        return begins
    share = (start - before.at) / (sums.at - before.at)
    more = sums.plus(before, times=-1)
    return replace(
        begins,
        requests=before.requests + int(share * more.requests),
        errors=before.errors + int(share * more.errors),
        latencies=tuple(map(int.__add__, _padded(before.latencies), (int(share * one) for one in more.latencies))),
        is_late=True,
    )


def _padded(latencies: Sequence[int]) -> tuple[int, ...]:
    return (*latencies, *[0] * (CLASSES - len(latencies)))


def _latest(tx: Tx, run_ids: Collection[str]) -> dict[Key, Row[Any]]:
    return {(row.run_id, row.source): row for row in tx.select(_LATEST, {"run_ids": sorted(run_ids)})}


def _merge_earlier(tx: Tx, run_id: str) -> None:
    """Add up the sums of a service's earliest data planes where it has had very many."""
    rows = sorted(_latest(tx, [run_id]).values(), key=lambda row: (row.source != EARLIER, row.starts_at))
    if len(rows) <= SOURCES_MAX:
        return
    ended = rows[: SOURCES_MAX // 2]
    whole = Sums(0)
    for row in ended:
        whole = whole.plus(unpacked(row.points, row.starts_at)[-1])
    sources = [row.source for row in ended]
    tx.change(delete(traffic).where(traffic.c.run_id == run_id, traffic.c.source.in_(sources)))
    start = max(row.starts_at for row in ended)
    tx.change(_INSERT, [_values((run_id, EARLIER), start, [replace(whole, at=start.timestamp())])])


def read(tx: Tx, run_ids: Collection[str], since: datetime) -> dict[str, list[list[Sums]]]:
    """Return the histories of some services back to a time, at least, and their latest sums."""
    found: dict[str, dict[str, list[Sums]]] = {}
    for row in tx.select(_SINCE, {"run_ids": list(run_ids), "since": start_of(since.timestamp())}):
        history = found.setdefault(row.run_id, {}).setdefault(row.source, [])
        history += unpacked(row.points, row.starts_at)
    return {run_id: list(by_source.values()) for run_id, by_source in found.items()}


def forget(tx: Tx, run_id: str) -> None:
    """Delete all sums of a service."""
    tx.change(delete(traffic).where(traffic.c.run_id == run_id))


def start_of(at: float) -> datetime:
    """Return the beginning of the row that has a time."""
    return datetime.fromtimestamp(at // _SPAN_S * _SPAN_S, UTC)


def with_point(known: Sequence[Sums], sums: Sums) -> list[Sums]:
    """Return the points of a row with later sums, which replace those of the same ten seconds.

    The point with the most requests that wait stays too, since a chart shows them, and one that is late.
    """
    same = [point for point in known[1:] if point.at // _STEP_S == sums.at // _STEP_S and not point.is_late]
    most = [point for point in same[:1] if point.held > sums.held]
    return [*known[: len(known) - len(same)], *most, sums]


def packed(points: Sequence[Sums], start: datetime) -> bytes:
    """Return the points of a row as bytes: each as its difference to the one before.

    Examples:
        >>> start = start_of(1200)
        >>> unpacked(packed([Sums(1200), Sums(1210.5, 3, 1, 2, (3, 0))], start), start)[1]
        Sums(at=1210.5, requests=3, errors=1, in_flight=2, latencies=(3, 0), held=0, is_late=False)
    """
    begin = start.timestamp()
    befores = [Sums(0), *points]
    rows = []
    for before, point in zip(befores, points, strict=False):
        more = point.plus(before, times=-1)
        numbers = [point.in_flight, more.requests, more.errors, *more.latencies]
        if point.held or point.is_late:  # few points have either
            numbers = [point.in_flight, more.requests, more.errors, *_padded(more.latencies)]
            numbers += [point.held, int(point.is_late)]
        rows.append([round((point.at - begin) * 1000), *numbers])
    return msgpack.encode(rows)


def unpacked(row: bytes, start: datetime) -> list[Sums]:
    """Return the points of a row, in order; the first has the sums before it."""
    points, sums, begin = [], Sums(0), start.timestamp()
    for at_ms, in_flight, requests, errors, *rest in _rows.decode(row):
        held, is_late = rest[CLASSES:] or (0, 0)
        more = Sums(begin + at_ms / 1000, requests, errors, in_flight, tuple(rest[:CLASSES]), held, bool(is_late))
        sums = more.plus(sums)
        points.append(sums)
    return points


def _values(key: Key, start: datetime, points: Sequence[Sums]) -> dict[str, Any]:
    run_id, source = key
    return {"of_run": run_id, "of_source": source, "of_start": start, "points": packed(points, start)}
