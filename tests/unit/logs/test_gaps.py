"""Whatever comes, is lost and is dropped: what is read is what was printed, and what is missing is told."""

import fcntl
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.bucket import Bucket, Found
from dstack.errors import StorageUnavailable
from dstack.kit import holes
from dstack.logs import bucket as log_bucket
from dstack.logs import files as log_files
from dstack.logs.base import LogStore, Part
from dstack.logs.bounded import BoundedLogs, LogBounds
from dstack.logs.bucket import LogBucket
from dstack.logs.files import BLOCK_BYTES, LogFiles
from dstack.logs.gaps import Gap, lost_bytes, passed, surplus_end, with_gap
from tests.patience import PATIENCE_S

T = TypeVar("T")
U = TypeVar("U")

OF = "j", "job"
TEXT = bytes(1 + number % 250 for number in range(5000))
"""Without zeros: a hole would be seen."""

acts = st.lists(st.tuples(st.sampled_from(["append"] * 4 + ["skip", "drop"]), st.integers(0, 60)), max_size=40)
ends = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda one: Gap(one[0], one[0] + one[1])))


def parts(logs: LogStore, limit: int) -> list[Part]:
    """The log as a reader gets it."""
    read, offset = list[Part](), 0
    while (part := logs.read(*OF, offset, limit)) != (offset, b""):
        read.append(part)
        offset = part.offset + len(part.data)
    return read


class Shelf(Bucket):
    """A bucket in memory: the storage of the tests takes milliseconds for each request."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self.objects[name] = data

    def get(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        return self.objects[name][start:end] if name in self.objects else None

    def list(self, prefix: str, after: str = "") -> Iterator[Found]:
        for name in sorted(self.objects):
            if name.startswith(prefix) and name > after:
                yield Found(name, len(self.objects[name]), datetime.fromtimestamp(1, UTC))

    def delete(self, names: Iterable[str]) -> None:
        for name in [*names]:
            self.objects.pop(name, None)

    def map(self, function: Callable[[T], U], of: Sequence[T]) -> Sequence[U]:
        return [function(one) for one in of]


class Model(NamedTuple):
    """What a log should be: where it ends, and what of it is lost."""

    size: int
    gaps: list[Gap]


def after(model: Model, logs: LogStore, act: str, count: int) -> Model:
    size, gaps = model
    match act:
        case "append":
            begin = max(0, size - count % 7)  # some of it for the second time
            assert logs.append(*OF, begin, 1.0 + size, TEXT[begin : size + count]) == size + count
            return Model(size + count, gaps)
        case "skip":
            begin = max(0, size - count % 5)
            assert logs.skip(*OF, Gap(begin, size + count), 1.0 + size) == size + count
            return Model(size + count, with_gap(gaps, Gap(size, size + count)) if count else gaps)
        case _:
            end = min(count * 3, size)
            logs.drop(*OF, end)
            return Model(size, with_gap(gaps, Gap(0, end)) if end else gaps)


@pytest.mark.parametrize("kind", ["files", "bucket"])
@given(acts, st.integers(1, 100))
def test_any_row_of_appends_gaps_and_drops_reads_back_right(
    tmp_path_factory: pytest.TempPathFactory, kind: str, acts: list[tuple[str, int]], limit: int
) -> None:
    bucket = Shelf()
    folder = tmp_path_factory.mktemp("logs")
    logs: LogStore = LogFiles(folder) if kind == "files" else LogBucket(bucket)
    model = Model(0, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_bucket, "SMALL_BYTES", (30, 50))
        patch.setattr(log_bucket, "PIECE_BYTES_MAX", 200)
        patch.setattr(log_bucket, "MERGE_COUNT", 4)
        for act, count in acts:
            if act != "drop" or model.size:
                model = after(model, logs, act, count)
        for reader in (logs, LogFiles(folder) if kind == "files" else LogBucket(bucket)):
            assert reader.size(*OF) == model.size
            assert [gap for gap in reader.gaps(*OF)] == model.gaps
            offset = 0
            for part in parts(reader, limit):
                assert part.offset == passed(model.gaps, offset)
                assert part.data == TEXT[part.offset : part.offset + len(part.data)]
                offset = part.offset + len(part.data)
            assert offset == model.size


@given(ends, st.integers(1, 100))
def test_no_more_than_the_newest_stay(gaps: list[Gap], keep_bytes: int) -> None:
    joined: list[Gap] = []
    for gap in gaps:
        joined = with_gap(joined, gap)
    size = max([60, *(gap.end for gap in joined)])
    end = surplus_end(size, joined, keep_bytes)
    kept = size - lost_bytes(with_gap(joined, Gap(0, end)) if end else joined)
    assert kept == min(keep_bytes, size - lost_bytes(joined))


def test_a_gap_has_to_be_told_before_what_comes_behind_it(logs: LogStore) -> None:
    logs.append(*OF, 0, 1.0, b"abc")
    with pytest.raises(ValueError, match="bytes 3 to 5 of j/job are missing"):
        logs.append(*OF, 5, 1.0, b"f")
    with pytest.raises(ValueError, match="bytes 3 to 4 of j/job are missing"):
        logs.skip(*OF, Gap(4, 5), 1.0)
    assert logs.skip(*OF, Gap(3, 5), 1.0) == 5
    assert logs.append(*OF, 5, 1.0, b"f") == 6
    assert logs.skip(*OF, Gap(0, 4), 1.0) == 6, "what is there stays"
    assert parts(logs, 100) == [(0, b"abc"), (5, b"f")]


@pytest.mark.parametrize(
    ("start", "offset"), [(5.0, 0), (10.0, 0), (20.0, 0), (25.0, 6), (30.0, 6), (40.0, 9), (99, 12)]
)
def test_a_start_time_finds_what_is_there_and_what_is_lost(logs: LogStore, start: float, offset: int) -> None:
    for at, data in ((10.0, b"aaa"), (20.0, b"bbb")):
        logs.append(*OF, logs.size(*OF), at, data)
    logs.skip(*OF, Gap(6, 9), 30.0)
    logs.append(*OF, 9, 40.0, b"ccc")
    logs.drop(*OF, 6)
    found = logs.offset_at(*OF, datetime.fromtimestamp(start, UTC))
    assert found == offset or (offset < 9 and found == 0), "a store may forget when that was printed which it dropped"


def test_dropped_bytes_give_back_their_room_on_the_disk(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append(*OF, 0, 1.0, bytes(1 << 20))
    logs.drop(*OF, 1 << 19)
    taken = sum(path.stat().st_blocks * BLOCK_BYTES for path in tmp_path.rglob("*") if path.is_file())
    assert taken <= (1 << 19) + (1 << 15)
    assert logs.size(*OF) == 1 << 20


def test_dropped_bytes_give_back_their_room_in_the_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_bucket, "PIECE_BYTES_MAX", 100)
    logs = LogBucket(bucket)
    logs.append(*OF, 0, 1.0, TEXT[:1000])
    for end in (350, 750):
        logs.drop(*OF, end)
        assert [one.name for one in bucket.list("logs/") if one.name.endswith(".gap")] == [
            f"logs/j/job/{0:015d}-{end:015d}.gap"
        ]
    assert len([*bucket.list("logs/")]) == 4
    assert parts(LogBucket(bucket), 1000)[0] == (750, TEXT[750:800])


def test_a_reader_of_another_server_sees_what_was_dropped_meanwhile(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_bucket, "PIECE_BYTES_MAX", 100)
    writer, reader = LogBucket(bucket), LogBucket(bucket)
    writer.append(*OF, 0, 1.0, TEXT[:1000])
    assert reader.read(*OF, 0, 5) == (0, TEXT[:5])
    writer.drop(*OF, 500)
    assert reader.read(*OF, 0, 5) == (500, TEXT[500:505])


def test_a_log_keeps_its_newest_bytes_and_the_first_loss_and_each_doubling_is_news(logs: LogStore) -> None:
    bounded = BoundedLogs(logs, LogBounds(stream_bytes_max=1000))
    news = []
    for offset in range(0, 5000, 50):
        stored = bounded.append(OF, offset, float(offset), TEXT[offset : offset + 50])
        assert stored.size == offset + 50
        news += [loss.lost_bytes for loss in stored.losses if loss.is_news]
    first = logs.read(*OF, 0, 5000).offset
    assert 900 <= 5000 - first <= 1100
    assert b"".join(part.data for part in parts(logs, 5000)) == TEXT[first:]
    assert 3 <= len(news) <= 12 and news == sorted(news)


def test_on_a_full_disk_the_largest_log_loses_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.logs.bounded.SMALL_LOG_BYTES", 1 << 17)
    logs = LogFiles(tmp_path)
    for job_id, size in (("large", 1 << 20), ("small", 1 << 16)):
        logs.append(job_id, "job", 0, 1.0, bytes(size))
    bounded = BoundedLogs(logs, LogBounds(free_bytes_min=1 << 60))
    monkeypatch.setattr("dstack.logs.bounded.FREE_SHARE_MAX", 1.0)  # no disk is free enough
    losses = bounded.append(("new", "job"), 0, 1.0, bytes(16 << 20)).losses
    assert {loss.of[0] for loss in losses} == {"new", "large"}
    assert all(loss.why == "the server's disk is almost full" for loss in losses)
    assert logs.gaps("small", "job") == []


def test_where_nothing_can_be_dropped_everything_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, start: int, end: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(log_files, "punch", refuse)
    logs = LogFiles(tmp_path)
    bounded = BoundedLogs(logs, LogBounds(stream_bytes_max=100))
    for offset in range(0, 1000, 50):
        assert bounded.append(OF, offset, 1.0, TEXT[offset : offset + 50]).losses == ()
    assert b"".join(part.data for part in parts(logs, 5000)) == TEXT[:1000]


def test_a_bucket_that_cannot_drop_just_now_stores_all_the_same(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(names: object) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(bucket, "delete", away)
    bounded = BoundedLogs(LogBucket(bucket), LogBounds(stream_bytes_max=100))
    assert bounded.append(OF, 0, 1.0, TEXT[:500]).size == 500


def test_holes_are_known_where_there_are_none(tmp_path: Path) -> None:
    assert holes.why_not(tmp_path) is None
    assert "No such file" in str(holes.why_not(tmp_path / "none"))


def test_no_gap_is_forgotten_where_another_comes_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers on one folder: one drops what the other has, which is about to write down what was lost."""
    one, other = LogFiles(tmp_path), LogFiles(tmp_path)
    one.append(*OF, 0, 1.0, TEXT[:100])
    waits_or_is_done = Event()
    lock = fcntl.flock

    def dropping() -> None:
        other.drop(*OF, 50)
        waits_or_is_done.set()

    thread = Thread(target=dropping, name="drops")

    def locking(log: int, how: int) -> None:
        if thread.ident is not None:
            waits_or_is_done.set()
        lock(log, how)

    def meanwhile(gaps: Iterable[Gap], more: Gap) -> list[Gap]:
        if thread.ident is None:
            thread.start()
            assert waits_or_is_done.wait(PATIENCE_S)
        return with_gap(gaps, more)

    monkeypatch.setattr(fcntl, "flock", locking)
    monkeypatch.setattr(log_files, "with_gap", meanwhile)
    one.skip(*OF, Gap(100, 200), 2.0)
    thread.join()
    assert one.gaps(*OF) == [Gap(0, 50), Gap(100, 200)]
    assert parts(one, 1000) == [Part(50, TEXT[50:100]), Part(200, b"")]
