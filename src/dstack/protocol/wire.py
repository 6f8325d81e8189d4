"""Views and requests as JSON. No other module reads or writes them, so that server and client agree."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from dstack.protocol.base import View

if TYPE_CHECKING:
    from dstack.protocol.requests import Request

V = TypeVar("V", bound=View)
R = TypeVar("R", bound="Request")
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


def request_of(kind: type[R], body: object) -> R:
    """Return a request from a JSON value that is read already. Refuses unknown fields.

    Raises:
        ValueError: a field is unknown or missing, or a value does not fit. The message has no value: it may be secret.
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        reason, place = reason.partition(" '")[0], path.strip("`.")  # a wrong word of an enumeration is quoted
        raise ValueError(f"body.{place}: {reason}" if place else f"body: {reason}") from None


def encoded(view: "Shown | Request") -> bytes:
    """Return views or a request as JSON on one line.

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
