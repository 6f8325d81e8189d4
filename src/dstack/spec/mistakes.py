"""The mistakes in a configuration: each with its path and a plain message. A reader of YAML needs no more."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dstack.errors import ConfigurationError

Path: TypeAlias = tuple[str | int, ...]

MISPRINT = re.compile("[\0\ud800-\udfff]")
"""Characters that neither a file nor a program's argument can contain."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: its path and its message."""

    path: Path
    text: str

    def with_path(self) -> str:
        """Return the message with its field."""
        return f"`{'.'.join(map(str, self.path))}`: {self.text}" if self.path else self.text


class Mistaken(Exception):
    """The reason why plain data is not a configuration. It becomes a `ConfigurationError` with fields or places.

    Args:
        mistakes: all mistakes.
        document: the number of the document that has them; None for data that is in no document.
    """

    def __init__(self, mistakes: Sequence[Mistake], document: int | None = None) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes
        self.document = document

    def with_fields(self) -> ConfigurationError:
        """Return the error that lists every mistake with its field."""
        return ConfigurationError("; ".join(one.with_path() for one in self.mistakes))
