"""Words for people."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be, or None.

    Examples:
        >>> nearest("comands", ["commands", "ports"])
        'commands'
    """
    from difflib import get_close_matches  # seldom needed, and clients start often

    known = {one.lower(): one for one in words}
    found = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


NEAREST_MAX = 5


def nearest_listed(word: str, words: Iterable[str]) -> str:
    """Return advice about an unknown word: the known one that it resembles, or else the five nearest.

    Examples:
        >>> nearest_listed("comands", ["commands", "ports"]), nearest_listed("x", ["commands", "ports"])
        ('did you mean `commands`?', 'known are `ports`, `commands`')
    """
    from difflib import get_close_matches

    known = list(words)
    if (guess := nearest(word, known)) is not None:
        return f"did you mean `{guess}`?"
    found = get_close_matches(word.lower(), known, n=NEAREST_MAX, cutoff=0)
    return f"{'known are' if len(known) <= NEAREST_MAX else 'the nearest are'} {listed(found)}"


def listed(words: Iterable[str]) -> str:
    """Literals in a sentence: `a`, `b`, `c`."""
    return ", ".join(f"`{word}`" for word in words)


def first_of(words: Sequence[object], most: int = 3) -> str:
    """Return the first of some literals, and how many more there are.

    Examples:
        >>> first_of(["a", "b", "c", "d", "e"]), first_of(["a"])
        ('`a`, `b`, `c` and 2 more', '`a`')
    """
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return listed(map(str, words[:most])) + more


def found_in(part: str, whole: str) -> str:
    """Return the end of a message about a wrong part of a value, which names the value once.

    Examples:
        >>> found_in("x", "A100:x"), found_in("x", "x")
        ('found `x` in `A100:x`', 'found `x`')
    """
    return f"found {shown(part)}" + (f" in {shown(whole)}" if part != whole.strip() else "")


def is_segment(text: str) -> bool:
    """Whether a text can be one segment of a URL's path, and arrives there as it is.

    Examples:
        >>> is_segment("my run"), is_segment("a/b"), is_segment(".."), is_segment("")
        (True, False, False, False)
    """
    return text.isprintable() and "/" not in text and text not in ("", ".", "..")


def flaw_of(text: str) -> str | None:
    """Why a text can neither be stored nor shown; None where it can.

    Examples:
        >>> flaw_of("caf\u00e9"), flaw_of("a\\0b"), flaw_of("\\ud800")
        (None, 'a NUL character', 'half of a character (a lone surrogate)')
    """
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a character (a lone surrogate)"
    return None


def utc_text(moment: datetime) -> str:
    """Return a moment as texts of the server write it; the command line shows it by the local clock.

    Examples:
        >>> utc_text(datetime(2030, 1, 31, 12, 0, 5, tzinfo=UTC))
        '2030-01-31 12:00:05 UTC'
    """
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def storable(value: Any) -> Any:
    """Return a JSON value with marks in place of characters that cannot be stored or shown.

    Those are NUL, and the lone surrogates that names of files may have.

    Examples:
        >>> storable({"path": ["a\\0b", "\\udcff", 1]})
        {'path': ['a\ufffdb', '?', 1]}
    """
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            return {storable(key): storable(one) for key, one in value.items()}
        case list():
            return [storable(one) for one in value]
        case _:
            return value


def size_text(size_bytes: float) -> str:
    """Bytes for people.

    Examples:
        >>> size_text(12), size_text(34_567), size_text(1_234_567), size_text(2e9)
        ('12 bytes', '34.6 KB', '1.2 MB', '2.0 GB')
    """
    if size_bytes < 1000:
        return f"{size_bytes:.0f} bytes"
    unit, size = next(one for one in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)) if size_bytes >= one[1])
    return f"{size_bytes / size:.1f} {unit}"


def memory_text(mib: float) -> str:
    """Memory for people, rounded; 1024-based, as in configurations.

    Examples:
        >>> memory_text(0), memory_text(3.21), memory_text(512), memory_text(7782), memory_text(1536 << 10)
        ('0MB', '3.2MB', '512MB', '7.6GB', '1.5TB')
    """
    for unit, its_mib in (("TB", 1 << 20), ("GB", 1 << 10)):
        if mib >= its_mib:
            return f"{round(mib / its_mib, 1):g}{unit}"
    return f"{mib:.1f}MB" if 0 < mib < 10 else f"{mib:.0f}MB"


SHOWN_MAX_CHARACTERS = 80


def shown(value: object) -> str:
    """Return a value for a message: as in YAML and JSON, and never long.

    Examples:
        >>> shown("8GiB"), shown(True), shown(None), shown([1, 2])
        ('`8GiB`', '`true`', 'nothing', 'a list')
    """
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case bool():
            return f"`{str(value).lower()}`"
        case int() if value.bit_length() > 1000:
            return "a very large number"  # Python refuses to spell it out
        case _:
            text = str(value).replace("\n", "⏎")
            return f"`{text if len(text) <= SHOWN_MAX_CHARACTERS else text[:SHOWN_MAX_CHARACTERS] + '…'}`"
