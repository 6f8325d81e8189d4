"""The edge: the one place that judges a request, before anything of it is used.

A request passes with a known token, a body of bounded size and depth, and texts that can be stored and shown. This
holds for its path, its query, its headers, and the keys and values of its JSON.
"""

import json
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeAlias
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Scope

from dstack.kit.text import flaw_of
from dstack.protocol.files import BLOB_BYTES_MAX
from dstack.protocol.wire import R, request_of
from dstack.server.http.calls import identify, user_of
from dstack.server.http.problems import Unacceptable

JSON_BYTES_MAX = 2 << 20
"""Twenty thousand hashes, or four configurations of the largest size."""
NESTING_MAX = 64
"""How deep lists and mappings of a body may lie in each other."""

Serve: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]
Place: TypeAlias = tuple["Place | None", str]
"""A list or mapping in a body: its parent, and its name there."""


class EdgeRoute(APIRoute):
    """A route that serves what gets past the edge."""

    def get_route_handler(self) -> Serve:
        """Return FastAPI's own handler behind the judge."""
        serve = super().get_route_handler()
        needs_token = any(dependency.call is user_of for dependency in self.dependant.dependencies)
        takes_json = any(isinstance(dependency.call, BodyOf) for dependency in self.dependant.dependencies)

        async def judged(asked: Request) -> Response:
            request = _Bounded(asked.scope, asked.receive, JSON_BYTES_MAX if takes_json else BLOB_BYTES_MAX)
            if needs_token:
                request.state.user = await identify(request)
            judge_head(request.scope)
            if takes_json:
                request.parsed = parsed(await request.body())
            return await serve(request)

        return judged


class _Bounded(Request):
    """A request whose body has at most so many bytes, and whose JSON is parsed once."""

    parsed: Any = None

    def __init__(self, scope: Scope, receive: Callable[[], Any], bytes_max: int) -> None:
        super().__init__(scope, receive)
        self._bytes_max = bytes_max

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes as they come.

        Raises:
            Unacceptable: there are too many, or the request announces too many.
        """
        self._check(int(self.headers.get("content-length", "0")))
        received = 0
        async for chunk in super().stream():
            received += len(chunk)
            self._check(received)
            yield chunk

    async def json(self) -> Any:
        """Return what the edge has parsed."""
        return self.parsed

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._bytes_max:
            raise Unacceptable(f"The body of the request is too large: at most {self._bytes_max} bytes are taken", 413)


class BodyOf(Generic[R]):
    """The dependency of an endpoint that takes a request of some kind as its JSON body."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind

    async def __call__(self, request: Request) -> R:
        """Return the body.

        Raises:
            Unacceptable: the body is no such request; the message names the field.
        """
        try:
            return request_of(self._kind, await request.json())
        except ValueError as error:
            raise Unacceptable(f"The request is not valid: {error}", 422) from None


def judge_head(scope: Scope) -> None:
    """Judge path, query and headers.

    Raises:
        Unacceptable: names the field with what is wrong in it.
    """
    if b"%" in scope.get("raw_path", b""):
        for name, value in scope["path_params"].items():
            # Percent-encoded bytes that are not UTF-8 have become this mark.
            flaw = "bytes that are not UTF-8" if "\N{REPLACEMENT CHARACTER}" in value else flaw_of(value)
            _refuse_if(flaw, f"path.{name}")
    if b"%" in scope["query_string"]:
        for part in scope["query_string"].split(b"&"):
            name, _, value = part.partition(b"=")
            _refuse_if(
                _flaw_of_bytes(unquote_to_bytes(part)), f"query.{name.decode('ascii', 'backslashreplace')[:100]}"
            )
    for name, value in scope["headers"]:
        if b"\0" in value:
            _refuse_if("a NUL character", f"header.{name.decode('latin-1')}")


def _flaw_of_bytes(text: bytes) -> str | None:
    try:
        return flaw_of(text.decode())
    except UnicodeDecodeError:
        return "bytes that are not UTF-8"


def _refuse_if(flaw: str | None, field: str) -> None:
    if flaw is not None:
        raise Unacceptable(
            f"`{field}` has {flaw}, which can neither be stored nor shown", 422, hint="Send text, as UTF-8"
        )


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)


def parsed(body: bytes) -> Any:
    """Return the JSON of a body, judged.

    Raises:
        Unacceptable: the body is not JSON, is nested too deeply, or has a text that cannot be stored.
            The message names the field.
    """
    try:
        text = body.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise Unacceptable(f"The body is not UTF-8 text: see its byte {error.start}", 422) from None
    except json.JSONDecodeError as error:
        raise Unacceptable(f"The body is not JSON: {error.msg} at character {error.pos}", 422) from None
    except ValueError:
        raise Unacceptable(
            "The body has a number that is infinite, not a number, or thousands of digits long", 422
        ) from None
    except RecursionError:
        raise _too_deep() from None
    # Without an escape sequence there is no way to write what cannot be stored; without brackets nothing lies deep.
    if "\\u" in text or text.count("[") + text.count("{") > NESTING_MAX:
        _judge(value)
    return value


def _judge(body: Any) -> None:
    todo: list[tuple[Place, Any, int]] = [((None, "body"), body, 0)]
    while todo:
        place, value, depth = todo.pop()
        if depth > NESTING_MAX:
            raise _too_deep()
        for name, one in _members_of(value, place):
            if isinstance(one, str):
                if (flaw := flaw_of(one)) is not None:
                    _refuse_if(flaw, _path_to((place, str(name))))
            elif isinstance(one, dict | list):
                todo.append(((place, str(name)), one, depth + 1))


def _members_of(value: Any, place: Place) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        for key in value:
            if (flaw := flaw_of(key)) is not None:
                _refuse_if(f"a key with {flaw}", _path_to(place))
        return iter(value.items())
    return iter(enumerate(value) if isinstance(value, list) else [("", value)])


def _path_to(place: Place | None) -> str:
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(name)
    return ".".join(filter(None, reversed(names)))


def _too_deep() -> Unacceptable:
    return Unacceptable(f"The body has lists or mappings nested more than {NESTING_MAX} deep in each other", 422)
