"""The command's output: messages on stderr, data on stdout; the format of tables, ages and prices."""

import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from dstack.cli.process import drop, output
from dstack.errors import ConfigurationError, DstackError
from dstack.kit import terminals
from dstack.kit.clock import SystemClock
from dstack.protocol.statuses import JobStatus, RunStatus, cause_text

if TYPE_CHECKING:
    from dstack.protocol.views import InstanceView, OfferView
    from dstack.protocol.wire import Shown

RED, GREEN, YELLOW, BLUE, BOLD = "31", "32", "33", "36", "1"
COLUMNS = 80
"""The width of a terminal that does not report it."""
CELL_MIN = 12
"""The least width of a column that is made narrower."""
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""A sequence that sets a colour and takes no column."""
UTC_TIME = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\b")
"""A moment in a text of the server, as `kit.text.utc_text` writes it."""
INDENT = "    "
"""The indentation of a table's last cell on lines of its own."""
STATUS_COLORS = {
    **dict.fromkeys(("running", "done", "busy", "idle", "claimed"), GREEN),
    **dict.fromkeys(("failed", "aborted", "orphan", "duplicate", "missing"), RED),
    **dict.fromkeys(("terminated", "terminating"), YELLOW),
    **dict.fromkeys(("pending", "submitted", "provisioning", "pulling"), BLUE),
}


def has_color(file: TextIO) -> bool:
    """Whether a file shows colours: a terminal, and the user has not disabled them."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colored(text: str, color: str, file: TextIO) -> str:
    """Return the text in a colour, or unchanged for a file without colours."""
    return f"\x1b[{color}m{text}\x1b[0m" if has_color(file) else text


def say(text: str) -> None:
    """Write a message to stderr, wrapped on a terminal; a failure to write is ignored."""
    _to_stderr(f"{wrapped(with_local_times(text), sys.stderr)}\n")


def _to_stderr(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)


def say_error(error: DstackError, label: str = "error") -> None:
    """Write an error and its hint to stderr."""
    _say_labelled(label, error.message, RED)
    if error.hint:
        _say_labelled("hint", error.hint, BOLD)


def say_warning(text: str) -> None:
    """Write a warning to stderr."""
    _say_labelled("warning", text, YELLOW)


def _say_labelled(label: str, text: str, color: str) -> None:
    shown = wrapped(f"{label}: {with_local_times(text)}", sys.stderr)
    _to_stderr(f"{colored(label, color, sys.stderr)}{shown.removeprefix(label)}\n")


def wrapped(text: str, file: TextIO, indent: str = "") -> str:
    """Return the text with breaks between words where a terminal's lines end; unchanged for other files.

    Args:
        text: one line or more.
        file: the file to show it in.
        indent: the beginning of each line after a break.
    """
    if not file.isatty():
        return text
    columns = columns_of(file)
    return "\n".join(
        line if len(ESCAPES.sub("", line)) <= columns else "\n".join(lines_within(line, columns, indent))
        for line in text.split("\n")
    )


def lines_within(text: str, columns: int, indent: str = "") -> list[str]:
    """Return a line as several that fit, broken between words, and not inside a command in backticks that fits.

    Examples:
        >>> lines_within("first `dstack ps -a`, then look", 16)
        ['first', '`dstack ps -a`,', 'then look']
    """
    import textwrap

    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        whole,
        columns,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return [line.replace("\0", " ") for line in lines]


def bar(done: float, whole: float, width: int = 24) -> str:
    """Return a bar with its percentage: `[######------] 50 %`."""
    share = 1.0 if whole <= 0 else min(done / whole, 1.0)
    filled = round(share * width)
    return f"[{'#' * filled}{'-' * (width - filled)}] {share:4.0%}"


def asked_secret(question: str) -> str:
    """Return a secret typed without echo, or all of stdin if it is not a terminal.

    Raises:
        ConfigurationError: stdin is not UTF-8 text; its bytes are not shown.
    """
    if not sys.stdin.isatty():
        try:
            return sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError:
            raise ConfigurationError(
                "The input on stdin is not UTF-8 text", hint="Encode binary data first, such as with `base64`"
            ) from None
    from getpass import getpass

    return getpass(f"{question}: ")


def show(text: str) -> None:
    """Write data to stdout."""
    with output():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def show_bytes(chunks: Iterable[bytes]) -> None:
    """Write a job's output to stdout, byte for byte and without delay.

    On a terminal, the next line of dstack's own begins a line.
    """
    with output():
        sys.stdout.flush()
    last = b""
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:  # a pipe may take a part of it
            with output():
                rest = rest[terminals.write(sys.stdout, rest) :]
        last = chunk or last
    if last and not last.endswith(b"\n") and sys.stdout.isatty():
        show("")


def show_json(view: "Shown", *, is_line: bool = False) -> None:
    """Write a view, or several, as JSON to stdout; `is_line`: on one line."""
    from dstack.protocol import wire  # seldom needed, and commands start often

    show(wire.encoded(view).decode() if is_line else wire.indented(view))


def cut(text: str, width: int) -> str:
    """Return the text if it fits, or its beginning and `…`."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    file: TextIO | None = None,
    is_fitted: bool = False,
    kept: Collection[str] = (),
) -> str:
    """Return aligned columns, two spaces apart, with the header in bold and statuses in colour on a terminal.

    Args:
        headers: the first line.
        rows: the others.
        file: the file to show it in; stdout by default.
        is_fitted: whether lines fit a terminal. Columns between the first and the last are cut to fit or left out.
            If a last cell is too long, all of them, and their header, have lines of their own below their rows.
        kept: the headers of columns that are never left out, besides the first and the last.
    """
    file = file or sys.stdout
    lines = [tuple(headers), *(tuple(map(with_local_times, row)) for row in rows)]
    *widths, last = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    columns = columns_of(file) if is_fitted and file.isatty() else sys.maxsize
    if sum(widths) + 2 * len(widths) + last > columns:
        widths = _fitting(widths, columns, [at for at, header in enumerate(headers) if header in kept])
    taken = sum(width + 2 for width in widths if width)
    is_below = any(line[-1] and taken + len(line[-1]) > columns for line in lines)
    if is_below and not any(line[-1] for line in lines[1:]):
        lines[0], is_below = (*lines[0][:-1], ""), False
    header, *texts = [_row(line, widths, columns, file, is_below=is_below) for line in lines]
    return "\n".join([colored(header, BOLD, file), *texts])


def _row(cells: Sequence[str], widths: Sequence[int], columns: int, file: TextIO, *, is_below: bool) -> str:
    *others, last = cells
    shown = [(_cut_between_words(cell, width), width) for cell, width in zip(others, widths, strict=True) if width]
    first, *rest = [(cell, " " * (width - len(cell))) for cell, width in shown] or [("", "")]
    texts = ["".join(first), *(f"{_with_color(cell, file)}{blanks}" for cell, blanks in rest)][: len(shown)]
    if not is_below:
        return "  ".join([*texts, _with_color(last, file)]).rstrip()
    line = "  ".join(texts).rstrip()
    below = lines_within(last, columns - len(INDENT))
    return "\n".join([line, *(f"{INDENT}{part}" for part in below)])


def _with_color(cell: str, file: TextIO) -> str:
    return colored(cell, STATUS_COLORS[cell], file) if cell in STATUS_COLORS else cell


def _cut_between_words(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    words, _, _ = text[:width].rpartition(" ")
    return f"{words.rstrip(', ')}…" if words else cut(text, width)


def _fitting(widths: Sequence[int], columns: int, kept: Collection[int] = ()) -> list[int]:
    """Return the widths with which all columns but the last fit a terminal; 0 for those that are left out.

    The widest are made narrower first, then the leftmost are left out, but for those `kept`; the first column stays
    as it is.

    Examples:
        >>> _fitting([5, 20, 4], 80), _fitting([5, 28, 28], 50), _fitting([30, 15, 15, 15], 70)
        ([5, 20, 4], [5, 13, 28], [30, 0, 12, 12])
        >>> _fitting([30, 15, 15, 15], 70, kept=[1])
        [30, 12, 0, 12]
    """
    fitted = list(widths)

    def excess() -> int:
        return sum(width + 2 for width in fitted if width) - 2 - columns

    for at in sorted(range(1, len(fitted)), key=fitted.__getitem__, reverse=True):
        fitted[at] = max(fitted[at] - max(excess(), 0), min(fitted[at], CELL_MIN))
    for at in range(1, len(fitted)):
        if at not in kept and excess() > 0:
            fitted[at] = 0
    return fitted


def price(dollars_an_hour: float) -> str:
    """Return a price such as `$0.35`."""
    return f"${dollars_an_hour:.4f}".rstrip("0").rstrip(".")


def counted(number: int, noun: str) -> str:
    """Return a number of things.

    Examples:
        >>> counted(1, "replica"), counted(2, "replica")
        ('1 replica', '2 replicas')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def age(then: datetime, now: datetime) -> str:
    """Return the time since then, such as `3 mins ago`."""
    seconds = max((now - then) / timedelta(seconds=1), 0.0)
    for unit, size_s in (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1)):
        count = int(seconds // size_s)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"


def clock(then: datetime, now: datetime) -> str:
    """Return a time in the local time zone, with its date if that is another day."""
    here = then.astimezone()
    return f"{here:%H:%M:%S}" if here.date() == now.astimezone().date() else f"{here:%Y-%m-%d %H:%M}"


def with_local_times(text: str, now: datetime | None = None) -> str:
    """Return a text with its moments in UTC as this machine's clock shows them."""

    def local(found: re.Match[str]) -> str:
        try:
            return clock(datetime.strptime(f"{found[0]}+0000", "%Y-%m-%d %H:%M:%S UTC%z"), now or SystemClock().now())
        except (ValueError, OverflowError):  # no such moment, here or at all
            return found[0]

    return UTC_TIME.sub(local, text)


def why(status: RunStatus | JobStatus, reason: str | None, detail: str) -> str:
    """Return the reason why a run waits or ended; nothing for a success."""
    if status == RunStatus.DONE.value:
        return ""
    return cause_text(reason, detail)


def backend_of(view: "InstanceView | OfferView") -> str:
    """Return the name of a backend; its type from a server of an earlier version."""
    return view.backend_name or view.backend


def offers_table(offers: "Sequence[OfferView]", total: int, max_price: float | None, file: TextIO) -> str:
    """Return a table of the best offers for a file, and their total number."""
    headers = ("#", "BACKEND", "REGION", "INSTANCE", "RESOURCES", "SPOT", "PRICE", "STATE")
    rows = [
        (
            str(number),
            backend_of(offer),
            offer.region,
            offer.instance_type,
            offer.resources,
            "yes" if offer.spot else "no",
            price(offer.price),
            "" if offer.availability == "available" else offer.availability.replace("_", " "),
        )
        for number, offer in enumerate(offers, start=1)
    ]
    most = f", up to {price(max_price)} per hour" if max_price is not None and total > 1 else ""
    shown = f"Shown {len(offers)} of {total} {'offer' if total == 1 else 'offers'}{most}"
    columns = len(headers) if any(row[-1] for row in rows) else len(headers) - 1
    text = table(headers[:columns], (row[:columns] for row in rows), file=file, is_fitted=True)
    return f"{text}\n{shown}"


def confirmed(question: str, *, if_not: str = "") -> bool:
    """Ask a question on the terminal; return whether the answer is yes.

    Args:
        question: the question.
        if_not: the message after another answer.

    Raises:
        ConfigurationError: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(f'Without a terminal, dstack cannot ask "{question}": pass `-y` to answer yes')
    while True:
        _to_stderr(f"{question} [y/n]: ")
        answer = sys.stdin.readline()
        if not answer or answer.strip().lower() in ("n", "no"):
            if if_not:
                say(if_not)
            return False
        if answer.strip().lower() in ("y", "yes"):
            return True


class StatusLine:
    """One line that changes on a terminal and disappears at the end; in a file, a line for each change."""

    def __init__(self) -> None:
        self._last = ""
        self.is_live = sys.stderr.isatty()
        """Whether the line can be overwritten."""

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_live and self._last:
            _to_stderr("\r\x1b[2K")

    def set(self, text: str, *, is_lasting: bool = True) -> None:
        """Replace the line's text.

        Args:
            text: one line.
            is_lasting: whether to write it also where lines cannot be overwritten.
        """
        text = with_local_times(text)
        if text == self._last or not (is_lasting or self.is_live):
            return
        self._last = text
        if self.is_live:
            # Clearing only behind the new text avoids flicker; a wrapped line could not be overwritten.
            _to_stderr(f"\r{_cut_between_words(text, columns_of(sys.stderr) - 1)}\x1b[K")
        else:
            _to_stderr(f"{text}\n")


def columns_of(terminal: TextIO) -> int:
    """Return a terminal's width; stdout and stderr may be different files."""
    with suppress(OSError, ValueError):
        return os.get_terminal_size(terminal.fileno()).columns
    return COLUMNS
