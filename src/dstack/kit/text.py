"""Words for people."""

from collections.abc import Iterable


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be, or None.

    Example:
        >>> nearest("comands", ["commands", "ports"])
        'commands'
    """
    from difflib import get_close_matches  # seldom needed, and clients start often

    known = {one.lower(): one for one in words}
    found = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


def listed(words: Iterable[str]) -> str:
    """Literals in a sentence: `a`, `b`, `c`."""
    return ", ".join(f"`{word}`" for word in words)
