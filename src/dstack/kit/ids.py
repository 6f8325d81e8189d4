"""Identifiers as a dependency, so that a simulation names the same things the same way."""

import os
from typing import TYPE_CHECKING, Protocol

from dstack.kit.clock import Clock

if TYPE_CHECKING:
    import random


SHORT = 12
"""The characters at the end of an identifier that distinguish it from others."""


def short_id(id: str) -> str:
    """Return an identifier as people read it: its end."""
    return id if len(id) <= SHORT else f"…{id[-SHORT:]}"


def derived_id(*texts: str) -> str:
    """Return the identifier that belongs to these texts. Other texts have another one."""
    import hashlib  # takes long to load, and clients do without

    digest = hashlib.sha256(b"".join(hashlib.sha256(text.encode()).digest() for text in texts)).hexdigest()
    return _uuid_text("0" + digest[1:32])


def _uuid_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Ids(Protocol):
    """The only source of identifiers, secret tokens and chance."""

    def new_id(self) -> str: ...

    def new_token(self) -> str: ...

    def random(self) -> "random.Random": ...


class RandomIds:
    """Identifiers that sort by the time of their making and start with a digit (UUID version 7, RFC 9562).

    The leading digit keeps them apart from names, which start with a letter.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def new_id(self) -> str:
        value = int(self._clock.now().timestamp() * 1000) << 80 | int.from_bytes(os.urandom(10))
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        return _uuid_text(f"{value:032x}")

    def new_token(self) -> str:
        return os.urandom(24).hex()

    def random(self) -> "random.Random":
        import random

        return random.SystemRandom()
