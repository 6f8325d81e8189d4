"""How the client speaks to the server: one HTTP client driven by `protocol.routes`, and one place where replies and
failures become views and errors. httpx is imported at the first request, so that importing the API stays cheap.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from dstack import __version__
from dstack.api._servers import Server, is_loopback
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

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 5.0
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
    return delay_s * (0.5 + secrets.randbelow(1 << 16) / (1 << 17))


class Reply:
    """An answer that is still arriving: its headers, and its bytes as they come."""

    def __init__(self, response: "httpx.Response") -> None:
        self._response = response
        self.headers: Mapping[str, str] = response.headers

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they come, until the server has sent all.

        Raises:
            ServerUnreachableError: the connection broke, or was silent for longer than the stream's time-out.
        """
        import httpx

        try:
            yield from self._response.iter_raw()
        except httpx.TransportError as error:
            raise _unreachable(str(self._response.url), error) from error

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

    def __init__(self, server: Server) -> None:
        self.when_away: Callable[[str], None] = lambda line: None
        """Told, in one line, that a call waits for a server that is away."""
        self._server = server
        self._has_answered = False
        self._closing = threading.Event()
        self._lock = threading.Lock()

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
        response = self._send(route, body, query, headers, path, stream=False)
        if route.view is None:
            return None
        try:
            return route.view.model_validate_json(response.content)
        except ValidationError as error:
            raise _not_ours(response) from error

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
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        response = self._send(route, None, query, headers, path, stream=True, reply_timeout_s=idle_timeout_s)
        try:
            yield Reply(response)
        finally:
            response.close()

    def close(self) -> None:
        """Close all connections and end waiting repeats."""
        self._closing.set()
        with self._lock:
            if "_http" in self.__dict__:
                self._http.close()
            if "_http_loopback" in self.__dict__:
                self._http_loopback.close()

    def pause(self, delay_s: float) -> bool:
        """Wait; returns False where the transport was closed meanwhile."""
        return not self._closing.wait(delay_s)

    @cached_property
    def _http(self) -> "httpx.Client":
        return _http_client(trust_env=True)

    @cached_property
    def _http_loopback(self) -> "httpx.Client":
        return _http_client(trust_env=False)

    def _client_for(self, url: str) -> "httpx.Client":
        with self._lock:
            if self._closing.is_set():
                raise client_closed()
            return self._http_loopback if is_loopback(url) else self._http

    def _send(
        self,
        route: Route,
        body: BaseModel | bytes | None,
        query: Query | None,
        headers: Mapping[str, str] | None,
        path: Mapping[str, str],
        *,
        stream: bool,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> "httpx.Response":
        import httpx

        content, content_type = _content_of(body)
        params = {name: _text(name, value) for name, value in (query or {}).items() if value is not None}
        where = route.path.format_map({name: _segment(name, value) for name, value in path.items()})
        attempt = 0
        while True:
            attempt += 1
            address = self._server.find()
            http = self._client_for(address.url)
            is_last = attempt == TRIES or self._closing.is_set()
            try:
                request = http.build_request(
                    route.method,
                    address.url + where,
                    content=content,
                    params=params,
                    headers={"Authorization": f"Bearer {address.token}", **content_type, **(headers or {})},
                    timeout=httpx.Timeout(REPLY_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=reply_timeout_s),
                )
                response = http.send(request, stream=stream)
                self._has_answered = True
                if is_last or response.status_code not in TRANSIENT_STATUSES:
                    return _checked(response)
                response.close()
                delay_s = _asked_delay_s(response)
            except (httpx.InvalidURL, UnicodeError) as error:
                raise ConfigurationError(
                    f"No server can have the URL `{address.url}`: {error}", hint="Write it like `http://127.0.0.1:3000`"
                ) from error
            except httpx.TransportError as error:
                self._server.lost(address)
                if is_last:
                    raise _unreachable(address.url, error) from error
                delay_s = 0.0
            self.pause(max(delay_s, jittered(FIRST_DELAY_S * 2 ** (attempt - 1))))


def _asked_delay_s(response: "httpx.Response") -> float:
    """How long the server asks to wait before the next try."""
    asked = response.headers.get("retry-after", "")
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


def _http_client(*, trust_env: bool) -> "httpx.Client":
    import httpx

    limits = httpx.Limits(max_connections=32, max_keepalive_connections=8)
    return httpx.Client(headers={"User-Agent": f"dstack/{__version__}"}, limits=limits, trust_env=trust_env)


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


def _checked(response: "httpx.Response") -> "httpx.Response":
    """The response where it is a success; raises what it says where it is not."""
    if response.is_success:
        return response
    try:
        response.read()
        raise _error_of(response)
    finally:
        response.close()


def _error_of(response: "httpx.Response") -> DstackError:
    if response.is_redirect:
        target = response.headers.get("location", "")
        return ServerError(
            f"`{response.url}` redirects to `{target}`", hint="Use the URL at which the server itself answers"
        )
    with suppress(ValidationError):
        problem = Problem.model_validate_json(response.content)
        error = error_of_code(problem.code, problem.detail, problem.hint)
        if isinstance(error, UnauthorizedError) and error.hint is None:
            error.hint = "Check the token in `~/.dstack/config.yml` or `DSTACK_TOKEN`"
        return error
    return _not_ours(response)


def _not_ours(response: "httpx.Response") -> DstackError:
    if response.status_code in TRANSIENT_STATUSES:
        return _unreachable(str(response.url), f"status {response.status_code}")
    return ServerError(
        f"`{response.url}` gave an answer (status {response.status_code}) that is not of a dstack server",
        hint="Check the server's URL, and what stands between here and the server",
    )


def _unreachable(url: str, cause: Exception | str) -> ServerUnreachableError:
    parts = urlsplit(url)
    reason = str(cause) or type(cause).__name__
    return ServerUnreachableError(
        f"No server answers at `{parts.scheme}://{parts.netloc}` ({reason})",
        hint="Start one with `dstack server`, or correct the URL in `~/.dstack/config.yml` or `DSTACK_SERVER_URL`",
    )
