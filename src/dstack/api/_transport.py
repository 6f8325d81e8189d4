"""Requests to the server, as `protocol.routes` defines them. Replies become views, and failures become errors."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from dstack import __version__
from dstack.api._http import Answer, Connections, unreachable
from dstack.api._servers import Address, Server
from dstack.errors import (
    ConfigurationError,
    DstackError,
    InvalidRequestError,
    ServerError,
    ServerUnreachableError,
    UnauthorizedError,
    client_closed,
    error_of_code,
)
from dstack.kit.pauses import Pauses
from dstack.kit.text import is_segment
from dstack.protocol.base import View
from dstack.protocol.routes import Route
from dstack.protocol.views import Problem
from dstack.protocol.wire import decoded, encoded

if TYPE_CHECKING:
    from dstack.protocol.requests import Request

REPLY_TIMEOUT_S = 30.0
FIRST_DELAY = timedelta(seconds=0.1)
LONGEST_DELAY = timedelta(seconds=5)
TRIES = 4
TRANSIENT_STATUSES = (502, 503, 504)
PATIENCE_S = 300.0
"""The time that readers of logs and events retry while the server is unreachable, in seconds."""

V = TypeVar("V", bound=View)
Query = Mapping[str, str | int | bool | None]


class Reply:
    """A reply that is still arriving: its headers, and its bytes as they come."""

    def __init__(self, answer: Answer) -> None:
        self.headers = answer.headers
        self.chunks = answer.chunks
        self._answer = answer

    def view(self, kind: type[V], text: str) -> V:
        """Return the view in a part of the reply.

        Raises:
            ServerError: the part is no such view.
        """
        return _view(kind, text, self._answer)

    def lines(self) -> Iterator[str]:
        """Yield the text line by line, split at line feeds only. JSON may contain other separators of `splitlines`."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r").decode(errors="replace")


class Transport:
    """A sender of requests to one server. Retries after a broken connection, and raises the server's errors.

    Every request of the API may be repeated. Creations carry an `Idempotency-Key`. A deletion is refused by name if an
    earlier try has done the work and its answer was lost.
    Several threads may use one transport.
    """

    def __init__(self, server: Server, *, tries: int = TRIES, reply_timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self.when_away: Callable[[str], None] = lambda line: None
        """Called with one line of text at each try while a call waits for an unreachable server."""
        self._server = server
        self._tries = tries
        self._reply_timeout_s = reply_timeout_s
        self.answered_url: str | None = None
        """The URL of the server that has answered last; None before the first answer."""
        self._closing = threading.Event()
        self._connections = Connections()

    @property
    def url(self) -> str:
        """The server's URL. Starts the embedded server if it is used and does not run."""
        return self._server.find().url

    @property
    def address(self) -> Address:
        """The server's URL, with the user's token. Starts a server as `url` does."""
        return self._server.find()

    def has_server(self) -> bool:
        """Return whether a server runs, so that a request starts none."""
        return self._server.is_running()

    def is_own(self) -> bool:
        """Return whether the server is this user's own, on this machine."""
        return self._server.is_own()

    def call(
        self,
        route: Route,
        body: "Request | bytes | None" = None,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        **path: str,
    ) -> Any:  # the route's view, whose type only the caller knows
        """Send one request and return the route's view, or None if the route has none.

        Args:
            route: the endpoint.
            body: the route's request, or raw bytes.
            query: parameters after the `?`; those that are None are left out.
            headers: more headers.
            path: values for the names in braces in the route's path.

        Raises:
            ConfigurationError: an argument cannot be sent.
            ServerUnreachableError: no server answers.
            ServerError: the server refused the request or failed; subclasses name the reason.
        """
        answer = self._send(route, body, query, headers, path, stream=False)
        if route.view is None:
            return None
        return _view(route.view, answer.read(), answer)

    def outlast(
        self,
        route: Route,
        body: "Request | bytes | None" = None,
        *,
        given_up: threading.Event | None = None,
        **path: str,
    ) -> Any:
        """Send one request as `call`, and retry for five minutes if a server that has answered before is unreachable.

        Args:
            route: the endpoint.
            body: the route's request, or raw bytes.
            given_up: an event that ends the retries when it is set.
            path: values for the names in braces in the route's path.

        Raises:
            ServerUnreachableError, ServerError: as for `call`.
        """
        patience = Patience(self)
        key = _key_for(route)
        while True:
            try:
                return self.call(route, body, query=None, headers=key, **path)
            except ServerUnreachableError as error:
                if self.answered_url is None or (given_up is not None and given_up.is_set()):
                    raise
                self.when_away(f"{error.message}; this goes on when it is back")
                patience.endure(error)

    @contextmanager
    def stream(
        self, route: Route, *, query: Query | None = None, accept: str, idle_timeout_s: float, **path: str
    ) -> Iterator[Reply]:
        """Send one request and read its reply as it comes.

        Args:
            route: the endpoint.
            query: parameters after the `?`.
            accept: the media type of the reply.
            idle_timeout_s: the longest time without a byte, in seconds.
            path: values for the names in braces in the route's path.

        Raises:
            ServerUnreachableError, ServerError: as for `call`.
        """
        headers = {"Accept": accept}
        answer = self._send(route, None, query, headers, path, stream=True, silence_s=idle_timeout_s)
        try:
            yield Reply(answer)
        finally:
            answer.close()

    def close(self) -> None:
        """Close all connections and end waiting retries."""
        self._closing.set()
        self._connections.close()

    def pause(self, delay_s: float) -> bool:
        """Wait, and return whether the transport is still open.

        Args:
            delay_s: how long to wait, in seconds.
        """
        return not self._closing.wait(delay_s)

    def _send(
        self,
        route: Route,
        body: "Request | bytes | None",
        query: Query | None,
        headers: Mapping[str, str] | None,
        path: Mapping[str, str],
        *,
        stream: bool,
        silence_s: float | None = None,
    ) -> Answer:
        content, content_type = _content_of(body)
        headers = {**_key_for(route), **(headers or {})}
        params = urlencode({name: _text(name, value) for name, value in (query or {}).items() if value is not None})
        where = route.path.format_map({name: _segment(name, value) for name, value in path.items()})
        target = f"{where}?{params}" if params else where
        attempt = 0
        pauses = Pauses(FIRST_DELAY, LONGEST_DELAY)
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
                        **headers,
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
                self.answered_url = address.url
                if is_last or answer.status not in TRANSIENT_STATUSES:
                    return _checked(answer, address.url)
                answer.close()
                delay_s = _asked_delay_s(answer)
            self.pause(max(delay_s, pauses.next().total_seconds()))


def _key_for(route: Route) -> dict[str, str]:
    """Return the header by which the server recognizes the next tries of this request."""
    return {"Idempotency-Key": os.urandom(24).hex()} if route.takes_key else {}


def _asked_delay_s(answer: Answer) -> float:
    """Return the delay in seconds that the server asks for before the next try."""
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_DELAY.total_seconds()) if asked.isascii() and asked.isdigit() else 0.0


class Patience:
    """The delays between retries while the server is unreachable: each is longer, up to `limit_s` seconds in all."""

    def __init__(self, transport: Transport, limit_s: float = PATIENCE_S) -> None:
        self._transport = transport
        self._limit_s = limit_s
        self._pauses = Pauses(FIRST_DELAY, LONGEST_DELAY)
        self._failing_since: float | None = None

    def renew(self) -> None:
        """Reset the delays after an answer of the server."""
        self._pauses.reset()
        self._failing_since = None

    def endure(self, error: ServerUnreachableError) -> None:
        """Wait before the next try. Raises `error` after the limit, or if the transport was closed."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        goes_on = self._transport.pause(self._pauses.next().total_seconds())
        if not goes_on or now - self._failing_since > self._limit_s:
            raise error


def _content_of(body: "Request | bytes | None") -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    if isinstance(body, bytes):
        return body, {"Content-Type": "application/octet-stream"}
    try:
        return encoded(body), {"Content-Type": "application/json"}
    except UnicodeEncodeError:
        # The message of this error may contain a secret.
        raise ConfigurationError(
            "Something that was given is not UTF-8 text", hint="Correct it, or leave it out"
        ) from None


def _segment(what: str, name: str) -> str:
    """Return a name in URL encoding; raises `ConfigurationError` if the name cannot stand in a path."""
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


NEW_TOKEN = (
    "Get a new token from an admin of that server. Set it in `DSTACK_TOKEN`, or with "
    "`dstack project add --name NAME --url URL --token TOKEN`"
)


def _checked(answer: Answer, server_url: str) -> Answer:
    """Return a successful answer; raises the error of any other."""
    if answer.is_success:
        return answer
    try:
        raise _error_of(answer, server_url)
    finally:
        answer.close()


def _error_of(answer: Answer, server_url: str) -> DstackError:
    if answer.is_redirect:
        target = answer.headers["Location"]
        return ServerError(
            f"`{answer.url}` redirects to `{target}`", hint="Use the URL at which the server itself answers"
        )
    with suppress(ValueError):
        problem = decoded(Problem, answer.read())
        error = error_of_code(problem.code, problem.detail, problem.hint)
        if isinstance(error, UnauthorizedError):
            return UnauthorizedError(f"{problem.detail}: `{server_url}`", hint=NEW_TOKEN)
        if isinstance(error, InvalidRequestError):
            error.mistakes = [(tuple(one.path), one.text) for one in problem.mistakes]
        return error
    return _not_ours(answer)


def _view(kind: type[V], text: str | bytes, answer: Answer) -> V:
    """Return the view in an answer or in a part of it."""
    try:
        return decoded(kind, text)
    except ValueError as error:
        raise _not_ours(answer) from error


def _not_ours(answer: Answer) -> DstackError:
    if answer.status in TRANSIENT_STATUSES:
        return unreachable(answer.url, f"status {answer.status}")
    return ServerError(
        f"`{answer.url}` gave an answer (status {answer.status}) that is not of a dstack server",
        hint="Check the server's URL, and what stands between here and the server",
    )
