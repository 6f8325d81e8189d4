"""What the command says: messages to stderr, data to stdout, and how tables, ages and prices are written."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from dstack.cli.process import drop, output
from dstack.errors import ConfigurationError, DstackError
from dstack.protocol.statuses import JobStatus, RunStatus, cause_text

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dstack.protocol.views import OfferView

RED, GREEN, YELLOW, BOLD = "31", "32", "33", "1"
COLUMNS = 80
"""How wide a terminal is that does not say so."""
LAST_CELL_MIN = 24
"""How much is shown of a table's last cell at least, if need be on a second line."""
CELL_MIN = 12
"""How much is shown at least of another cell that is cut for it."""
STATUS_COLORS = {
    "running": GREEN,
    "done": GREEN,
    "failed": RED,
    "terminated": YELLOW,
    "terminating": YELLOW,
}


def has_color(file: TextIO) -> bool:
    """Whether colours make sense there: a terminal, and the user has not said otherwise."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colored(text: str, color: str, file: TextIO) -> str:
    """The text in a colour, or as it is where colours make no sense."""
    return f"\x1b[{color}m{text}\x1b[0m" if has_color(file) else text


def say(text: str) -> None:
    """Write a message for people to stderr; where that takes nothing, the work goes on without it."""
    _to_stderr(f"{text}\n")


def _to_stderr(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)


def say_error(error: DstackError, label: str = "error") -> None:
    """What went wrong and what to do next, to stderr."""
    say(f"{colored(label, RED, sys.stderr)}: {error.message}")
    if error.hint:
        say(f"{colored('hint', BOLD, sys.stderr)}: {error.hint}")


def say_warning(text: str) -> None:
    """What works, and should be done otherwise, to stderr."""
    say(f"{colored('warning', YELLOW, sys.stderr)}: {text}")


def bar(done: float, whole: float, width: int = 24) -> str:
    """A bar that fills up, and how much of it: `[######------] 50 %`."""
    share = 1.0 if whole <= 0 else min(done / whole, 1.0)
    filled = round(share * width)
    return f"[{'#' * filled}{'-' * (width - filled)}] {share:4.0%}"


def asked_secret(question: str) -> str:
    """What is typed without being shown, or stdin where that is no terminal.

    Raises:
        ConfigurationError: it is no text. What it is is not shown.
    """
    if not sys.stdin.isatty():
        try:
            return sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError:
            raise ConfigurationError(
                "What stdin has is not UTF-8 text", hint="Make a text of other bytes first, such as with `base64`"
            ) from None
    from getpass import getpass

    return getpass(f"{question}: ")


def show(text: str) -> None:
    """Data, to stdout."""
    with output():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def show_json(views: "Sequence[BaseModel]") -> None:
    """A list of objects as JSON, to stdout."""
    show(json.dumps([view.model_dump(mode="json") for view in views], indent=2))


def cut(text: str, width: int) -> str:
    """The text where it fits, or its beginning and `…`."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, file: TextIO | None = None, is_cut: bool = False
) -> str:
    """Aligned columns, two spaces apart, with the header in bold and statuses in colour where colours make sense.

    Args:
        headers: the first line.
        rows: the others.
        file: where it is to be shown; stdout without it.
        is_cut: whether lines end where a terminal does: the last column is cut to fit, and where next to nothing would
            be left of it, the widest of the others but the first.
    """
    file = file or sys.stdout
    lines = [tuple(headers), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    if is_cut and file.isatty():
        widths = _fitting(widths, _columns(file))
        lines = [tuple(map(cut, line, widths)) for line in lines]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text[0] = colored(text[0], BOLD, file)
    for row, line in enumerate(lines[1:], start=1):
        for cell in line:
            if cell in STATUS_COLORS:
                text[row] = text[row].replace(f" {cell}", f" {colored(cell, STATUS_COLORS[cell], file)}", 1)
    return "\n".join(text)


def _fitting(widths: list[int], columns: int) -> list[int]:
    """Return the widths with which a table's lines fit a terminal, where that can be.

    Examples:
        >>> _fitting([5, 20, 4, 90], 80), _fitting([5, 28, 28, 40], 80), _fitting([75, 15], 80)
        ([5, 20, 4, 45], [5, 17, 28, 24], [75, 15])
    """
    *others, last = widths
    room = columns - sum(width + 2 for width in others)
    if room < (least := min(last, LAST_CELL_MIN)) and len(others) > 1:
        at = max(range(1, len(others)), key=others.__getitem__)
        others[at] = max(others[at] - least + room, min(others[at], CELL_MIN))
        room = columns - sum(width + 2 for width in others)
    return [*others, min(last, max(room, least))]


def price(dollars_an_hour: float) -> str:
    """Such as `$0.35`."""
    return f"${dollars_an_hour:.4f}".rstrip("0").rstrip(".")


def age(then: datetime, now: datetime) -> str:
    """How long ago, such as `3 mins ago`."""
    seconds = max((now - then) / timedelta(seconds=1), 0.0)
    for unit, size_s in (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1)):
        count = int(seconds // size_s)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"


def clock(then: datetime, now: datetime) -> str:
    """Return a time as this machine's clock shows it, with its date where that is another day."""
    here = then.astimezone()
    return f"{here:%H:%M:%S}" if here.date() == now.astimezone().date() else f"{here:%Y-%m-%d %H:%M}"


def why(status: RunStatus | JobStatus, reason: str | None, detail: str) -> str:
    """Why a run is as it is: what it waits for, or how it came to its end; nothing where all went well."""
    if status == RunStatus.DONE.value:
        return ""
    return cause_text(reason, detail)


def offers_table(offers: "Sequence[OfferView]", total: int, max_price: float | None) -> str:
    """The best offers, and how many more there are."""
    headers = ("#", "BACKEND", "REGION", "INSTANCE", "RESOURCES", "SPOT", "PRICE", "STATE")
    rows = [
        (
            str(number),
            offer.backend,
            offer.region,
            offer.instance_type,
            offer.resources,
            "yes" if offer.spot else "no",
            price(offer.price),
            "" if offer.availability == "available" else offer.availability.replace("_", " "),
        )
        for number, offer in enumerate(offers, start=1)
    ]
    most = f", the dearest at {price(max_price)} an hour" if max_price is not None and total > 1 else ""
    shown = f"Shown {len(offers)} of {total} {'offer' if total == 1 else 'offers'}{most}"
    columns = len(headers) if any(row[-1] for row in rows) else len(headers) - 1
    text = table(headers[:columns], (row[:columns] for row in rows), file=sys.stderr)
    return f"{text}\n{shown}"


def confirmed(question: str) -> bool:
    """Ask on the terminal.

    Raises:
        ConfigurationError: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(f"There is no terminal to ask: {question}", hint="Pass `-y` to answer yes beforehand")
    while True:
        _to_stderr(f"{question} [y/n]: ")
        answer = sys.stdin.readline()
        if not answer or answer.strip().lower() in ("n", "no"):
            return False
        if answer.strip().lower() in ("y", "yes"):
            return True


class StatusLine:
    """One line that is written over on a terminal and gone at the end; elsewhere a line for each change."""

    def __init__(self) -> None:
        self._last = ""
        self.is_live = sys.stderr.isatty()
        """Whether it can be written over."""

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_live and self._last:
            _to_stderr("\r\x1b[2K")

    def set(self, text: str, *, is_lasting: bool = True) -> None:
        """Show the text instead of what was there.

        Args:
            text: one line.
            is_lasting: whether it is worth a line of its own where lines cannot be written over.
        """
        if text == self._last or not (is_lasting or self.is_live):
            return
        self._last = text
        if self.is_live:
            # Written over and then cleared behind, it does not flicker; a line that wrapped could not be written over.
            _to_stderr(f"\r{text[: _columns(sys.stderr) - 1]}\x1b[K")
        else:
            _to_stderr(f"{text}\n")


def _columns(terminal: TextIO) -> int:
    """How wide it is: of stdout and stderr, one may be a file meanwhile."""
    with suppress(OSError, ValueError):
        return os.get_terminal_size(terminal.fileno()).columns
    return COLUMNS
