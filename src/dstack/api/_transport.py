"""How the client speaks to the server: requests driven by `protocol.routes`, and one place where replies and failures
become views and errors.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from dstack import __version__
from dstack.api._http import Answer, Connections, unreachable
from dstack.api._servers import Server
from dstack.errors import (
    ConfigurationError,
    DstackError,
    ServerError,
    ServerUnreachableError,
    UnauthorizedError,
    client_closed,
    error_of_code,
)
from dstack.kit.text import is_segment
from dstack.protocol.routes import Route
from dstack.protocol.views import Problem

REPLY_TIMEOUT_S = 30.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
TRIES = 4
TRANSIENT_STATUSES = (502, 503, 504)
PATIENCE_S = 300.0
"""How long something that follows (a log, the events) goes on while the server is away."""

Query = Mapping[str, str | int | bool | None]


def jittered(delay_s: float) -> float:
    """The delay, 50 % to 100 % of it, so that many clients of one server do not come back in step."""
    return delay_s * (0.5 + int.from_bytes(os.urandom(2)) / (1 << 17))


class Reply:
    """An answer that is still arriving: its headers, and its bytes as they come."""

    def __init__(self, answer: Answer) -> None:
        self.headers = answer.headers
        self.chunks = answer.chunks

    def lines(self) -> Iterator[str]:
        """The text line by line, split at line feeds only (`str.splitlines` splits at more, which JSON may contain)."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r").decode(errors="replace")


class Transport:
    """Sends requests to one server, repeats those that a broken connection cut off, and raises what the server says.

    Every request of the API may be repeated: those that are not so by nature carry an `Idempotency-Key`.
    May be used from several threads.
    """

    def __init__(self, server: Server, *, tries: int = TRIES, reply_timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self.when_away: Callable[[str], None] = lambda line: None
        """Told, in one line, that a call waits for a server that is away."""
        self._server = server
        self._tries = tries
        self._reply_timeout_s = reply_timeout_s
        self._has_answered = False
        self._closing = threading.Event()
        self._connections = Connections()

    @property
    def url(self) -> str:
        """The server's URL; starts the embedded server where that is the one."""
        return self._server.find().url

    def is_own(self) -> bool:
        """Whether the server is this very user's, on this machine."""
        return self._server.is_own()

    def call(
        self,
        route: Route,
        body: BaseModel | bytes | None = None,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        **path: str,
    ) -> Any:  # the route's view, which only the caller knows statically
        """Send one request and return the route's view, or None where it has none.

        Args:
            route: which endpoint.
            body: the route's request, or raw bytes.
            query: parameters after the `?`; those that are None are left out.
            headers: more headers.
            path: what stands in the braces of the route's path.

        Raises:
            ConfigurationError: what was given cannot be sent.
            ServerUnreachableError: nobody answers.
            ServerError: the server refused or failed; the class tells which.
        """
        answer = self._send(route, body, query, headers, path, stream=False)
        if route.view is None:
            return None
        try:
            return route.view.model_validate_json(answer.read())
        except ValidationError as error:
            raise _not_ours(answer) from error

    def outlast(
        self,
        route: Route,
        body: BaseModel | bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        given_up: threading.Event | None = None,
        **path: str,
    ) -> Any:
        """Do as `call`, and go on for minutes where a server that has answered before is away: it comes back.

        Args:
            given_up: set where nobody waits for the answer any more.

        Raises:
            ServerUnreachableError, ServerError: as `call`.
        """
        patience = Patience(self)
        while True:
            try:
                return self.call(route, body, query=None, headers=headers, **path)
            except ServerUnreachableError as error:
                if not self._has_answered or (given_up is not None and given_up.is_set()):
                    raise
                self.when_away(f"{error.message}; this goes on when it is back")
                patience.endure(error)

    @contextmanager
    def stream(
        self, route: Route, *, query: Query | None = None, accept: str, idle_timeout_s: float, **path: str
    ) -> Iterator[Reply]:
        """Send one request and read its reply as it comes.

        Args:
            route: which endpoint.
            query: parameters after the `?`.
            accept: the media type wanted.
            idle_timeout_s: the longest silence, in seconds.
            path: what stands in the braces of the route's path.

        Raises:
            ServerUnreachableError, ServerError: as `call`.
        """
        headers = {"Accept": accept}
        answer = self._send(route, None, query, headers, path, stream=True, silence_s=idle_timeout_s)
        try:
            yield Reply(answer)
        finally:
            answer.close()

    def close(self) -> None:
        """Close all connections and end waiting repeats."""
        self._closing.set()
        self._connections.close()

    def pause(self, delay_s: float) -> bool:
        """Wait; returns False where the transport was closed meanwhile."""
        return not self._closing.wait(delay_s)

    def _send(
        self,
        route: Route,
        body: BaseModel | bytes | None,
        query: Query | None,
        headers: Mapping[str, str] | None,
        path: Mapping[str, str],
        *,
        stream: bool,
        silence_s: float | None = None,
    ) -> Answer:
        content, content_type = _content_of(body)
        params = urlencode({name: _text(name, value) for name, value in (query or {}).items() if value is not None})
        where = route.path.format_map({name: _segment(name, value) for name, value in path.items()})
        target = f"{where}?{params}" if params else where
        attempt = 0
        while True:
            attempt += 1
            address = self._server.find()
            if self._closing.is_set():
                raise client_closed()
            is_last = attempt == self._tries
            try:
                answer = self._connections.send(
                    route.method,
                    address.url,
                    target,
                    body=content,
                    headers={
                        "User-Agent": f"dstack/{__version__}",
                        "Authorization": f"Bearer {address.token}",
                        **content_type,
                        **(headers or {}),
                    },
                    timeout_s=silence_s or self._reply_timeout_s,
                )
                if not stream:
                    answer.read()
            except ServerUnreachableError:
                self._server.lost(address)
                if is_last or self._closing.is_set():
                    raise
                delay_s = 0.0
            else:
                self._has_answered = True
                if is_last or answer.status not in TRANSIENT_STATUSES:
                    return _checked(answer)
                answer.close()
                delay_s = _asked_delay_s(answer)
            self.pause(max(delay_s, jittered(FIRST_DELAY_S * 2 ** (attempt - 1))))


def _asked_delay_s(answer: Answer) -> float:
    """How long the server asks to wait before the next try."""
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_DELAY_S) if asked.isascii() and asked.isdigit() else 0.0


class Patience:
    """How long to go on while the server is away: waits longer each time, and gives up after `limit_s` seconds."""

    def __init__(self, transport: Transport, limit_s: float = PATIENCE_S) -> None:
        self._transport = transport
        self._limit_s = limit_s
        self.renew()

    def renew(self) -> None:
        """The server answered: start afresh."""
        self._delay_s = FIRST_DELAY_S
        self._failing_since: float | None = None

    def endure(self, error: ServerUnreachableError) -> None:
        """Wait a while; raises `error` where patience is used up or the transport was closed."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        goes_on = self._transport.pause(jittered(self._delay_s))
        self._delay_s = min(self._delay_s * 2, LONGEST_DELAY_S)
        if not goes_on or now - self._failing_since > self._limit_s:
            raise error


def _content_of(body: BaseModel | bytes | None) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    if isinstance(body, bytes):
        return body, {"Content-Type": "application/octet-stream"}
    try:
        return body.model_dump_json(exclude_unset=True).encode(), {"Content-Type": "application/json"}
    except PydanticSerializationError:
        # Its words, and those of its cause, may hold a secret.
        raise ConfigurationError(
            "Something that was given is not UTF-8 text", hint="Correct it, or leave it out"
        ) from None


def _segment(what: str, name: str) -> str:
    """What stands for a name in a URL; raises `ConfigurationError` where nothing can."""
    if not is_segment(name):
        raise ConfigurationError(
            f"`{name}` cannot be a {what}'s name", hint="Use a name of letters, digits and `-`, such as `my-name`"
        )
    return quote(name, safe="")


def _text(name: str, value: str | int | bool | None) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"`{name}`: {text!a} is not UTF-8 text", hint="Correct it") from error
    return text


def _checked(answer: Answer) -> Answer:
    """The answer where it is a success; raises what it says where it is not."""
    if answer.is_success:
        return answer
    try:
        raise _error_of(answer)
    finally:
        answer.close()


def _error_of(answer: Answer) -> DstackError:
    if answer.is_redirect:
        target = answer.headers["Location"]
        return ServerError(
            f"`{answer.url}` redirects to `{target}`", hint="Use the URL at which the server itself answers"
        )
    with suppress(ValidationError):
        problem = Problem.model_validate_json(answer.read())
        error = error_of_code(problem.code, problem.detail, problem.hint)
        if isinstance(error, UnauthorizedError) and error.hint is None:
            error.hint = "Check the token in `~/.dstack/config.yml` or `DSTACK_TOKEN`"
        return error
    return _not_ours(answer)


def _not_ours(answer: Answer) -> DstackError:
    if answer.status in TRANSIENT_STATUSES:
        return unreachable(answer.url, f"status {answer.status}")
    return ServerError(
        f"`{answer.url}` gave an answer (status {answer.status}) that is not of a dstack server",
        hint="Check the server's URL, and what stands between here and the server",
    )
