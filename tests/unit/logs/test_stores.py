"""What every log store promises, whatever it keeps the bytes in."""

from datetime import UTC, datetime

import pytest

from dstack.logs.base import LogStore


def whole(logs: LogStore, job_id: str = "j", stream: str = "job") -> bytes:
    """The stream as a reader gets it, part by part."""
    read = b""
    while data := logs.read(job_id, stream, len(read), 1000).data:
        read += data
    return read


def test_bytes_sent_twice_are_stored_once(logs: LogStore) -> None:
    assert logs.append("j", "job", 0, 1.0, b"abc") == 3
    assert logs.append("j", "job", 1, 1.0, b"bcde") == 5
    assert logs.append("j", "job", 0, 1.0, b"a") == 5
    assert whole(logs) == b"abcde"
    assert logs.read("j", "job", 3, 1) == (3, b"d")
    assert logs.read("j", "job", 5, 10) == (5, b"")


def test_a_gap_is_refused(logs: LogStore) -> None:
    with pytest.raises(ValueError, match="bytes 0 to 5 of j/job are missing"):
        logs.append("j", "job", 5, 1.0, b"x")


def test_nothing_is_nothing(logs: LogStore) -> None:
    assert logs.append("j", "job", 0, 1.0, b"") == 0
    assert (logs.size("j", "job"), whole(logs)) == (0, b"")
    assert logs.offset_at("j", "job", datetime.fromtimestamp(1, UTC)) == 0
    logs.delete("j")


def test_streams_and_jobs_do_not_mix(logs: LogStore) -> None:
    logs.append("j", "job", 0, 1.0, b"a")
    logs.append("j", "agent", 0, 1.0, b"bb")
    assert (logs.size("j", "job"), logs.size("j", "agent"), logs.size("k", "job")) == (1, 2, 0)
    logs.delete("j")
    assert logs.size("j", "job") == 0
    assert whole(logs) == b""


@pytest.mark.parametrize(
    ("start", "offset"), [(0.0, 0), (10.0, 0), (10.05, 0), (10.2, 3), (20.0, 3), (20.3, 6), (99.0, 9)]
)
def test_a_start_time_skips_only_what_was_printed_before(logs: LogStore, start: float, offset: int) -> None:
    for at, data in ((10.0, b"aa"), (10.05, b"a"), (20.0, b"bbb"), (30.0, b"ccc")):
        logs.append("j", "job", logs.size("j", "job"), at, data)
    found = logs.offset_at("j", "job", datetime.fromtimestamp(start, UTC))
    assert found == offset or (start, found) == (10.05, 2), "a store may be more exact than it has to"


def test_a_start_time_is_found_in_a_long_log(logs: LogStore) -> None:
    for number in range(100):
        logs.append("j", "job", number * 10, float(number), b"%09d\n" % number)
    assert logs.offset_at("j", "job", datetime.fromtimestamp(42, UTC)) == 420
    assert whole(logs) == b"".join(b"%09d\n" % number for number in range(100))
