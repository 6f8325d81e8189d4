"""Settings that the environment holds."""

import os


def positive_number(name: str, default: int) -> int:
    """The number in a variable; the default where it is not set.

    Raises:
        ValueError: it holds something else.
    """
    text = os.environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(f"{name} must be a positive number")
    return int(text)
