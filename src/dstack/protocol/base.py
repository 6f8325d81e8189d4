"""The base of all that the API returns. Clients ignore unknown fields, so that a newer server may add some."""

from datetime import datetime
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
"""A time with its time zone, which is UTC for all that the server sends."""


class View(Struct, frozen=True):
    """The base of every object that the API returns."""
