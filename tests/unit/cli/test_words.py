"""How things are written for people."""

import io
from datetime import UTC, datetime, timedelta

import pytest

from dstack.cli import words
from dstack.errors import ConfigurationError
from dstack.protocol.views import OfferView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def offer(price: float, availability: str = "available", spot: bool = False) -> OfferView:
    return OfferView(
        backend="local",
        region="-",
        instance_type="laptop",
        resources="4xCPU, 8GB, 100GB (disk)",
        spot=spot,
        price=price,
        availability=availability,
    )


def test_columns_are_aligned_and_rows_have_no_trailing_blanks() -> None:
    assert words.table(("NAME", "STATUS", "X"), [("a", "done", ""), ("longer", "failed", "1")], file=io.StringIO()) == (
        "NAME    STATUS  X\n"
        "a       done\n"
        "longer  failed  1"
    )  # fmt: skip


def test_a_terminal_gets_colours_unless_it_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = words.table(("NAME", "STATUS"), [("done", "failed")], file=Terminal())
    assert text == "\x1b[1mNAME  STATUS\x1b[0m\ndone  \x1b[31mfailed\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in words.table(("NAME", "STATUS"), [("done", "failed")], file=Terminal())


def test_lines_end_where_a_terminal_does_and_are_whole_elsewhere() -> None:
    rows = [("one", "x" * 200), ("two", "short")]
    _, long, short = words.table(("NAME", "WHY"), rows, file=Terminal(), is_cut=True).splitlines()
    assert (long, short) == (f"one   {'x' * 73}…", "two   short")
    narrow = words.table(("NAME", "WHY"), [("n" * 75, "stopped by user")], file=Terminal(), is_cut=True)
    assert narrow.endswith("stopped by user"), "it rather wraps than says nothing"
    assert "x" * 200 in words.table(("NAME", "WHY"), rows, file=io.StringIO(), is_cut=True)


def test_line_fits_a_narrow_terminal_and_its_first_cell_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    row = ("train", "2xCPU, 23.5GB, 76.3GB (disk)", "terminated", "x" * 20, "stopped by user")
    line = words.table(("NAME", "B", "C", "D", "WHY"), [row], file=Terminal(), is_cut=True).splitlines()[1]
    assert len(line) <= words.COLUMNS and line.startswith("train  2xCPU") and line.endswith("  stopped by user")


def test_offers() -> None:
    text = words.offers_table([offer(0), offer(0.35, "busy", spot=True)], total=24, max_price=32.8)
    assert text == (
        "#  BACKEND  REGION  INSTANCE  RESOURCES                 SPOT  PRICE  STATE\n"
        "1  local    -       laptop    4xCPU, 8GB, 100GB (disk)  no    $0\n"
        "2  local    -       laptop    4xCPU, 8GB, 100GB (disk)  yes   $0.35  busy\n"
        "Shown 2 of 24 offers, the dearest at $32.8 an hour"
    )
    assert words.offers_table([offer(0)], total=1, max_price=0.0).endswith("\nShown 1 of 1 offer")


@pytest.mark.parametrize(
    ("dollars", "text"), [(0.0, "$0"), (0.35, "$0.35"), (32.8, "$32.8"), (100.0, "$100"), (0.0001, "$0.0001")]
)
def test_prices(dollars: float, text: str) -> None:
    assert words.price(dollars) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "now"),
        (0.9, "now"),
        (1, "1 sec ago"),
        (59, "59 secs ago"),
        (60, "1 min ago"),
        (7300, "2 hours ago"),
        (200_000, "2 days ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert words.age(now - timedelta(seconds=seconds), now) == text


@pytest.mark.parametrize(("typed", "answer"), [("y\n", True), ("what\nYes\n", True), ("n\n", False), ("", False)])
def test_a_question_is_asked_until_it_is_answered(monkeypatch: pytest.MonkeyPatch, typed: str, answer: bool) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    assert words.confirmed("Sure?") is answer


def test_without_a_terminal_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigurationError, match="Pass `-y`"):
        words.confirmed("Sure?")


def test_a_live_status_is_written_over_and_elsewhere_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in (
        (Terminal(), "\ra\x1b[K\rb\x1b[K\r\x1b[2K\r50 %\x1b[K\r\x1b[2K"),
        (io.StringIO(), "a\nb\n"),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        with words.StatusLine() as line:
            for text in ("a", "a", "b"):
                line.set(text)
        with words.StatusLine() as line:
            line.set("50 %", is_lasting=False)
        assert stream.getvalue() == expected
