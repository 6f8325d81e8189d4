"""Views as JSON. No other module reads or writes them, so that server and client agree."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias, TypeVar

import msgspec

from dstack.protocol.views import View

V = TypeVar("V", bound=View)
Shown: TypeAlias = View | Mapping[str, object] | Sequence[View]


def decoded(kind: type[V], text: str | bytes) -> V:
    """Return a view from JSON. Ignores unknown fields, which a newer server may send.

    Raises:
        ValueError: the text is not JSON, a field is missing, or a value is of another type.
    """
    decoder: msgspec.json.Decoder[V] = _decoder_of(kind)
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"Not a `{kind.__name__}`: {error}") from error


def encoded(view: Shown) -> bytes:
    """Return views as JSON on one line.

    Raises:
        UnicodeEncodeError: a text has a lone surrogate.
    """
    return msgspec.json.encode(view)


def indented(view: Shown) -> str:
    """Return views as JSON for people.

    Raises:
        UnicodeEncodeError: a text has a lone surrogate.
    """
    return msgspec.json.format(encoded(view), indent=2).decode()


@cache
def _decoder_of(kind: type[V]) -> msgspec.json.Decoder[V]:
    return msgspec.json.Decoder(kind)
