"""How things are written for people."""

import io
import time
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from dstack.cli import words
from dstack.errors import ConfigurationError
from dstack.kit.text import utc_text
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


def test_last_cell_that_is_too_long_has_lines_below_its_row() -> None:
    rows = [("one", "lost " * 20), ("two", "short")]
    text = words.table(("NAME", "WHY"), rows, file=Terminal(), is_fitted=True)
    below = ["    " + " ".join(["lost"] * 15), "    " + " ".join(["lost"] * 5)]
    lines = words.ESCAPES.sub("", text).splitlines()
    assert lines == ["NAME", "    WHY", "one", *below, "two", "    short"]
    assert (
        words.table(("NAME", "WHY"), rows, file=io.StringIO(), is_fitted=True)
        .splitlines()[1]
        .endswith("lost " * 19 + "lost")
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("train", "train   local    2xCPU, 23.5GB, 76.3GB (disk)  $0     terminated  13 mins ago"),
        ("train-on-cards", "train-on-cards  local    2xCPU, 23.5GB, 76.3GB…  $0     terminated  13 mins ago"),
        ("t" * 41, f"{'t' * 41}  $0     terminated  13 mins ago"),
    ],
)
def test_row_fits_a_narrow_terminal_and_its_name_is_whole(
    monkeypatch: pytest.MonkeyPatch, name: str, shown: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    headers = ("NAME", "BACKEND", "RESOURCES", "PRICE", "STATUS", "SUBMITTED", "WHY")
    row = (
        name,
        "local",
        "2xCPU, 23.5GB, 76.3GB (disk)",
        "$0",
        "terminated",
        "13 mins ago",
        "attempt 9 failed (exit code 3)",
    )
    lines = words.table(headers, [row], file=Terminal(), is_fitted=True).splitlines()
    assert all(len(line) <= words.COLUMNS for line in lines)
    assert " ".join(lines[2].split()) == " ".join(shown.split())
    assert (lines[1], lines[3]) == ("    WHY", "    attempt 9 failed (exit code 3)")
    without = words.table(headers, [(*row[:-1], "")], file=Terminal(), is_fitted=True).splitlines()
    assert [line.split()[0] for line in without] == ["NAME", name]


def test_colours_of_a_line_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    line = "x" * 70 + "  " + words.colored("running", words.GREEN, Terminal())
    assert words.wrapped(line, Terminal()) == line


def test_message_breaks_between_words_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "error: " + "word " * 13 + "`dstack ps -a` shows all"
    for stream, expected in ((Terminal(), text.replace(" `dstack", "\n`dstack")), (io.StringIO(), text)):
        monkeypatch.setattr("sys.stderr", stream)
        words.say(text)
        assert stream.getvalue() == f"{expected}\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the next one starts at 2030-01-31 12:00:00 UTC", "the next one starts at 14:00:00"),
        ("it starts at 2030-02-01 12:00:00 UTC (again)", "it starts at 2030-02-01 14:00 (again)"),
        ("it starts at 2030-01-31 22:30:00 UTC", "it starts at 2030-02-01 00:30"),
        ("12:00 is no moment", "12:00 is no moment"),
        ("2030-99-31 12:00:00 UTC", "2030-99-31 12:00:00 UTC"),
        ("9999-12-31 23:59:59 UTC", "9999-12-31 23:59:59 UTC"),
    ],
)
def test_times_of_the_server_are_shown_by_the_local_clock(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    monkeypatch.setenv("TZ", "Europe/Helsinki")
    time.tzset()
    try:
        assert words.with_local_times(text, datetime(2030, 1, 31, 9, tzinfo=UTC)) == shown
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_messages_tables_and_status_lines_show_local_times(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2029, 1, 31, 12, tzinfo=UTC)
    here = f"{moment.astimezone():%Y-%m-%d %H:%M}"
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    words.say(f"a {utc_text(moment)}")
    words.say_error(ConfigurationError(f"b {utc_text(moment)}"))
    with words.StatusLine() as line:
        line.set(f"c {utc_text(moment)}")
    assert err.getvalue() == f"a {here}\nerror: b {here}\nc {here}\n"
    assert words.table(("WHY",), [(utc_text(moment),)], file=io.StringIO()).splitlines()[1] == here


def test_offers() -> None:
    text = words.offers_table([offer(0), offer(0.35, "busy", spot=True)], total=24, max_price=32.8, file=io.StringIO())
    assert text == (
        "#  BACKEND  REGION  INSTANCE  RESOURCES                 SPOT  PRICE  STATE\n"
        "1  local    -       laptop    4xCPU, 8GB, 100GB (disk)  no    $0\n"
        "2  local    -       laptop    4xCPU, 8GB, 100GB (disk)  yes   $0.35  busy\n"
        "Shown 2 of 24 offers, up to $32.8 per hour"
    )
    assert words.offers_table([offer(0)], total=1, max_price=0.0, file=io.StringIO()).endswith("\nShown 1 of 1 offer")


def test_offers_of_two_accounts_of_one_type_show_their_names() -> None:
    offers = [replace(offer(0), backend="aws", backend_name=name) for name in ("aws-a", "aws-b", None)]
    lines = words.offers_table(offers, total=3, max_price=0.0, file=io.StringIO()).splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["aws-a", "aws-b", "aws"], "an old server sends no name"


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
    with pytest.raises(ConfigurationError, match=r'cannot ask "Sure[?]": pass `-y` to answer yes'):
        words.confirmed("Sure?")


def test_answer_no_is_followed_by_its_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed, said in (("n\n", "Sure? [y/n]: Nothing was submitted\n"), ("y\n", "Sure? [y/n]: ")):
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        words.confirmed("Sure?", if_not="Nothing was submitted")
        assert capsys.readouterr().err == said


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
