from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.kit.ranges import COUNT_MAX, Range, parse_count
from dstack.kit.units import DURATION_MAX_S, MEMORY_MAX_GB, Memory, duration_text, parse_duration

COUNTS = st.integers(0, COUNT_MAX)
SIZES = st.floats(0, MEMORY_MAX_GB).map(Memory)


@pytest.mark.parametrize(
    ("written", "gb"),
    [
        ("8GB", 8.0),
        ("8gb", 8.0),
        ("8Gb", 8.0),
        (" 8 GB ", 8.0),
        ("8", 8.0),
        (8, 8.0),
        (1.5, 1.5),
        ("1.5GB", 1.5),
        ("512MB", 0.5),
        ("1TB", 1024.0),
        ("1.5tb", 1536.0),
        ("0MB", 0.0),
        (Memory(3), 3.0),
    ],
)
def test_memory_is_read_in_gigabytes_of_1024(written: object, gb: float) -> None:
    assert Memory.parse(written) == gb


def test_memory_and_ranges_are_made_of_text_too() -> None:
    assert Memory("8GB") == 8.0 and Memory() == 0.0 and str(Memory("512mb")) == "512MB"
    with pytest.raises(ValueError, match="expected a size such as `8GB`, `512MB` or `1TB`, found `8GiB`"):
        Memory("8GiB")
    sizes = Range(min="8GB", max="16GB")  # type: ignore[type-var]
    assert Range.parse(sizes, Memory.parse) == Range(Memory(8), Memory(16))
    with pytest.raises(ValueError, match=r"expected a range whose end is not below its start, found `16GB..8GB`"):
        Range.parse(Range(min="16GB", max="8GB"), Memory.parse)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("8GiB", "`8GiB`"),
        ("8G", "`8G`"),
        ("-1GB", "`-1GB`"),
        ("1e3GB", "`1e3GB`"),
        ("٣GB", "`٣GB`"),
        ("", "``"),
        ("GB", "`GB`"),
        ("1..2", "`1..2`"),
        (-1, "`-1`"),
        (True, "`true`"),
        (None, "nothing"),
        (["8GB"], "a list"),
        (float("nan"), "`nan`"),
        ("x" * 200, f"`{'x' * 80}…`"),
    ],
)
def test_what_is_no_size_is_named(written: object, shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        Memory.parse(written)
    assert str(caught.value) == f"expected a size such as `8GB`, `512MB` or `1TB`, found {shown}"


@pytest.mark.parametrize("written", ["1048577TB", "9" * 25, float("inf"), 10**400])
def test_no_machine_has_that_much_memory(written: object) -> None:
    with pytest.raises(ValueError, match=r"^expected at most `1048576TB`, found "):
        Memory.parse(written)


@pytest.mark.parametrize(
    ("gb", "text"), [(8, "8GB"), (0.5, "512MB"), (2048, "2TB"), (1025, "1025GB"), (0, "0MB"), (0.1, "0.1GB")]
)
def test_memory_is_written_in_the_largest_whole_unit(gb: float, text: str) -> None:
    assert str(Memory(gb)) == text


@given(SIZES)
def test_memory_survives_its_text(size: Memory) -> None:
    assert Memory.parse(str(size)) == size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("2H", 7200),
        ("1d", 86_400),
        ("1w", 604_800),
        (0, 0),
        ("0", 0),
        (" 5 m ", 300),
    ],
)
def test_a_duration_is_read_in_seconds(written: object, seconds: int) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["1.5h", "-1s", "h", "", "1h30m", "2y", "off", 1.5, -1, True, None, [1], "٣s"])
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a duration such as `90s`, `15m`, `2h` or `1d`, found "):
        parse_duration(written)


@pytest.mark.parametrize("written", ["36501d", 10**30, "9" * 30])
def test_nothing_lasts_longer_than_a_hundred_years(written: object) -> None:
    with pytest.raises(ValueError, match=r"^expected at most `36500d`, found "):
        parse_duration(written)


@given(st.integers(0, DURATION_MAX_S))
def test_a_duration_survives_its_text(seconds: int) -> None:
    assert parse_duration(duration_text(seconds)) == seconds


def counts(written: object) -> Range[int]:
    return Range.parse(written, parse_count)


def sizes(written: object) -> Range[Memory]:
    return Range.parse(written, Memory.parse)


@pytest.mark.parametrize(
    ("read", "written", "ends"),
    [
        (counts, "2..8", (2, 8)),
        (counts, "2..", (2, None)),
        (counts, "..8", (None, 8)),
        (counts, "2", (2, 2)),
        (counts, 2, (2, 2)),
        (counts, " 2 .. 8 ", (2, 8)),
        (counts, " 2 ", (2, 2)),
        (counts, "2..2", (2, 2)),
        (counts, {"min": 2}, (2, None)),
        (counts, {"min": 2, "max": "8"}, (2, 8)),
        (counts, Range(2, 8), (2, 8)),
        (sizes, "8GB..", (8, None)),
        (sizes, "512MB..1TB", (0.5, 1024)),
        (sizes, "..16", (None, 16)),
        (sizes, 8, (8, 8)),
        (sizes, "1.5..2", (1.5, 2)),
    ],
)
def test_a_range_has_two_ends_either_of_which_may_be_open(
    read: Callable[[object], Range[int]], written: object, ends: tuple[object, object]
) -> None:
    range = read(written)
    assert (range.min, range.max) == ends


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("..", "expected a range such as `2..8`, `2..` or `..8`, found one without any end"),
        (" .. ", "expected a range such as `2..8`, `2..` or `..8`, found one without any end"),
        ({"min": None}, "expected a range such as `2..8`, `2..` or `..8`, found one without any end"),
        ("8..2", "expected a range whose end is not below its start, found `8..2`"),
        ("a..b", "expected a whole number or a range such as `2..8`, found `a`"),
        ("2...8", "expected a whole number or a range such as `2..8`, found `.8`"),
        ("2..4..8", "expected a whole number or a range such as `2..8`, found `4..8`"),
        ("1.5", "expected a whole number or a range such as `2..8`, found `1.5`"),
        (1.0, "expected a whole number or a range such as `2..8`, found `1.0`"),
        (-1, "expected a whole number or a range such as `2..8`, found `-1`"),
        (True, "expected a whole number or a range such as `2..8`, found `true`"),
        (None, "expected a whole number or a range such as `2..8`, found nothing"),
        ({}, "expected a whole number or a range such as `2..8`, found a mapping"),
        ({"min": 1, "mox": 2}, "expected a whole number or a range such as `2..8`, found a mapping"),
        ([1, 2], "expected a whole number or a range such as `2..8`, found a list"),
        ("²", "expected a whole number or a range such as `2..8`, found `²`"),
        ("9" * 5000, f"expected a whole number or a range such as `2..8`, found `{'9' * 80}…`"),
        pytest.param(
            1 << 20_000, "expected a whole number or a range such as `2..8`, found a very large number", id="very large"
        ),
    ],
)
def test_what_is_no_range_is_refused(written: object, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        counts(written)
    assert str(caught.value) == said


@given(st.tuples(st.none() | COUNTS, st.none() | COUNTS).filter(any))
def test_a_range_of_counts_survives_its_text(ends: tuple[int | None, int | None]) -> None:
    low, high = ends
    range = Range(*sorted(ends)) if low is not None and high is not None else Range(low, high)  # type: ignore[type-var]
    assert counts(str(range)) == range


@given(SIZES, SIZES, st.sampled_from(["both", "min", "max"]))
def test_a_range_of_sizes_survives_its_text(one: Memory, other: Memory, ends: str) -> None:
    low, high = min(one, other), max(one, other)
    range = Range(low if ends != "max" else None, high if ends != "min" else None)
    assert sizes(str(range)) == range
    assert range.contains(high if ends != "min" else low)
