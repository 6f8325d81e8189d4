from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack.logs.files import LogFiles


def test_bytes_sent_twice_are_stored_once(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    assert logs.append("j", "job", 0, 1.0, b"abc") == 3
    assert logs.append("j", "job", 1, 1.0, b"bcde") == 5
    assert logs.append("j", "job", 0, 1.0, b"a") == 5
    assert logs.read("j", "job", 0, 100) == b"abcde"
    assert logs.read("j", "job", 3, 1) == b"d"


def test_a_gap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bytes 0 to 5 of j/job are missing"):
        LogFiles(tmp_path).append("j", "job", 5, 1.0, b"x")


def test_streams_and_jobs_do_not_mix(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append("j", "job", 0, 1.0, b"a")
    logs.append("j", "agent", 0, 1.0, b"bb")
    assert (logs.size("j", "job"), logs.size("j", "agent"), logs.size("k", "job")) == (1, 2, 0)
    logs.delete("j")
    assert logs.size("j", "job") == 0
    assert logs.read("j", "job", 0, 10) == b""


@pytest.mark.parametrize(
    ("start", "offset"), [(0.0, 0), (10.0, 0), (10.05, 0), (10.2, 3), (20.0, 3), (20.3, 6), (99.0, 9)]
)
def test_a_start_time_skips_only_what_was_printed_before(tmp_path: Path, start: float, offset: int) -> None:
    logs = LogFiles(tmp_path)
    for at, data in ((10.0, b"aa"), (10.05, b"a"), (20.0, b"bbb"), (30.0, b"ccc")):
        logs.append("j", "job", logs.size("j", "job"), at, data)
    assert logs.offset_at("j", "job", datetime.fromtimestamp(start, UTC)) == offset
