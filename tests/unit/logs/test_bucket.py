"""What two servers do to a log that both store, and what becomes of many small objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.bucket import Bucket
from dstack.errors import StorageUnavailable
from dstack.logs import bucket as log_bucket
from dstack.logs.bucket import MERGE_COUNT, LogBucket
from dstack.logs.gaps import Gap
from tests.making import few_examples
from tests.unit.logs.test_stores import whole

TEXT = bytes(range(251)) * 10

acts = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from(["append"] * 4 + ["size", "read"]), st.integers(1, 40)),
    min_size=30,
    max_size=60,
)


@few_examples()
@given(acts)
def test_what_two_servers_store_at_once_is_one_log(bucket: Bucket, acts: list[tuple[int, str, int]]) -> None:
    """Each goes on from where it believes the log to end; the agent sends the same bytes to both."""
    bucket.delete([one.name for one in bucket.list("logs/")])
    servers = [LogBucket(bucket), LogBucket(bucket)]
    believed = [0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_bucket, "SMALL_BYTES", (30, 50))
        patch.setattr(log_bucket, "PIECE_BYTES_MAX", 200)
        patch.setattr(log_bucket, "MERGE_COUNT", 4)
        for number, act, count in acts:
            server = servers[number]
            if act == "append":
                offset = believed[number]
                believed[number] = server.append("j", "job", offset, 1.0, TEXT[offset : offset + count])
            elif act == "size":
                assert server.size("j", "job") == max(believed)
                believed[number] = max(believed)
            else:
                assert TEXT.startswith(whole(server))
        for server in (*servers, LogBucket(bucket)):
            assert whole(server) == TEXT[: max(believed)]


def test_an_overlap_that_lies_far_behind_still_counts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_bucket, "PIECE_BYTES_MAX", 10)
    monkeypatch.setattr(log_bucket, "SMALL_BYTES", ())
    one, other = LogBucket(bucket), LogBucket(bucket)
    for server, start, end in ((one, 0, 10), (other, 0, 10), (one, 10, 13), (one, 13, 20), (other, 10, 15)):
        server.append("j", "job", start, 1.0, TEXT[start:end])
    assert one.size("j", "job") == 20
    for start in range(20, 60, 5):
        one.append("j", "job", start, 1.0, TEXT[start : start + 5])
        assert one.size("j", "job") == start + 5


def test_many_small_appends_become_few_objects(bucket: Bucket) -> None:
    logs = LogBucket(bucket)
    for number in range(300):
        logs.append("j", "job", number * 100, float(number), TEXT[:100])
    assert len(list(bucket.list("logs/"))) < 3 * MERGE_COUNT
    assert whole(LogBucket(bucket)) == TEXT[:100] * 300


def test_a_reader_finds_what_was_merged_meanwhile(bucket: Bucket) -> None:
    writer, reader = LogBucket(bucket), LogBucket(bucket)
    for number in range(MERGE_COUNT - 1):
        writer.append("j", "job", number, 1.0, TEXT[number : number + 1])
    assert reader.read("j", "job", 0, 1).data == TEXT[:1]
    writer.append("j", "job", MERGE_COUNT - 1, 1.0, b"x")
    assert reader.read("j", "job", 3, 2).data == TEXT[3:5]


def test_bytes_are_stored_even_where_merging_does_not_work(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = LogBucket(bucket)

    def away(names: object) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(bucket, "delete", away)
    for number in range(3 * MERGE_COUNT):
        assert logs.append("j", "job", number, 1.0, TEXT[number : number + 1]) == number + 1
    assert whole(logs) == TEXT[: 3 * MERGE_COUNT]


def test_what_lies_far_behind_the_end_is_not_listed_again(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_bucket, "PIECE_BYTES_MAX", 10)
    monkeypatch.setattr(log_bucket, "SMALL_BYTES", (1, 2))
    logs, listed = LogBucket(bucket), list[str]()
    logs.append("j", "job", 0, 1.0, TEXT)
    find = bucket.list

    def listing(prefix: str, after: str = "") -> object:
        for one in find(prefix, after):
            listed.append(one.name)
            yield one

    monkeypatch.setattr(bucket, "list", listing)
    assert logs.size("j", "job") == len(TEXT)
    assert 0 < len(listed) <= 5


def test_a_server_that_saw_to_a_stream_before_finds_what_another_one_stored_and_dropped_since(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_bucket, "PIECE_BYTES_MAX", 10)
    monkeypatch.setattr(log_bucket, "SMALL_BYTES", ())
    before, meanwhile = LogBucket(bucket), LogBucket(bucket)
    before.append("j", "job", 0, 1.0, TEXT[:100])
    meanwhile.append("j", "job", 100, 1.0, TEXT[100:200])
    meanwhile.drop("j", "job", 150)
    assert before.size("j", "job") == 200
    assert before.gaps("j", "job") == [Gap(0, 150)]
    assert before.append("j", "job", 200, 1.0, TEXT[200:210]) == 210
    assert before.read("j", "job", 0, 5) == (150, TEXT[150:155])


def test_what_another_server_stored_meanwhile_is_no_gap(bucket: Bucket) -> None:
    before, meanwhile = LogBucket(bucket), LogBucket(bucket)
    before.append("j", "job", 0, 1.0, TEXT[:100])
    meanwhile.append("j", "job", 100, 1.0, TEXT[100:200])
    assert before.skip("j", "job", Gap(100, 150), 1.0) == 200
    assert whole(LogBucket(bucket)) == TEXT[:200]
