"""Backends as they are on record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class BackendRecord:
    """A configured account at a source of machines."""

    id: str
    """A row's id, which begins with a digit; of a backend without a row, its type."""
    type: str
    """The value of a `BackendType`: its driver."""
    name: str
    project_id: str | None = None
    """The only project that may use it; None for all projects."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its configuration, with `HIDDEN` in place of each credential."""
    sealed: str | None = field(default=None, repr=False)
    """Its credentials as ciphertext."""
    created_at: datetime | None = None
    """None for a backend without a row."""
    updated_at: datetime | None = None
    closing_since: datetime | None = None
    """The time since which it sells nothing more. Its row is deleted once no machine can be left."""

    @property
    def is_row(self) -> bool:
        """Whether it has a row. Other backends are there by the server's settings."""
        return self.created_at is not None
