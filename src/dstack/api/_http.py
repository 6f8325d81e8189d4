"""HTTP/1.1 by the standard library: connections that are used again, and answers that are read as they come.

`http.client` loads in a tenth of the time of an HTTP library. In a short command, the difference is visible.
"""

import base64
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urlsplit

from dstack.api._servers import is_loopback
from dstack.errors import ConfigurationError, ServerUnreachableError, client_closed
from dstack.kit import systems

CONNECT_TIMEOUT_S = 5.0
CHUNK_BYTES = 256 << 10
IDLE_CONNECTIONS_MAX = 8
"""The number of connections that are kept for later requests."""
PORTS = {"http": 80, "https": 443}


class Answer:
    """An answer: status, headers, and a body that is still arriving. Read it to its end, or close it."""

    def __init__(self, url: str, response: http.client.HTTPResponse, end: "_End") -> None:
        self.url = url
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._end = end
        self._content: bytes | None = None

    @property
    def is_success(self) -> bool:
        """Whether the status reports success."""
        return 200 <= self.status < 300

    @property
    def is_redirect(self) -> bool:
        """Whether the server redirects to another URL."""
        return 300 <= self.status < 400 and "Location" in self.headers

    def read(self) -> bytes:
        """Return the whole body.

        Raises:
            ServerUnreachableError: the connection broke, or no byte came within the time-out.
        """
        if self._content is None:
            self._content = b"".join(self.chunks())
        return self._content

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            ServerUnreachableError: as for `read`.
        """
        response = self._response
        try:
            while chunk := response.read1(CHUNK_BYTES):
                yield chunk
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise unreachable(self.url, error) from error
        self._end(is_whole=True)

    def close(self) -> None:
        """Stop reading the body. Does nothing if all of it is read."""
        self._end(is_whole=False)


class Connections:
    """Connections to one server. Several threads may use them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self._idle: list[tuple[SplitResult, http.client.HTTPConnection]] = []
        self._busy: dict[http.client.HTTPConnection, socket.socket] = {}

    def send(
        self, method: str, url: str, target: str, *, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        """Send one request and return its answer, whose body may still be arriving.

        Args:
            method: the method, such as `GET`.
            url: the server's URL.
            target: path and query, relative to the URL.
            body: the request's body; None for none.
            headers: headers, without those that HTTP itself needs.
            timeout_s: the longest time without a byte, in seconds.

        Raises:
            ConfigurationError: the URL is malformed.
            ServerUnreachableError: no server answers, or the connection broke.
        """
        try:
            server = urlsplit(url)
            proxy = _proxy_of(server)
            connection = self._connected(server, proxy)
            where = server.path + target
            if proxy is not None and server.scheme == "http":
                where, headers = f"http://{server.netloc}{where}", {**headers, **_proxy_headers(proxy)}
            try:
                # A server that refuses a body may close the connection early; its answer has the reason.
                with suppress(ConnectionError):
                    self._busy[connection].settimeout(timeout_s)
                    connection.request(method, where, body, dict(headers))
                response = connection.getresponse()
            except BaseException:
                self._dropped(connection)
                raise
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(url, error) from error
        except ValueError as error:
            raise ConfigurationError(
                f"No server can have the URL `{url}`: {error}", hint="Write it like `http://127.0.0.1:3000`"
            ) from error
        return Answer(url + target, response, _End(self, server, connection, response))

    def close(self) -> None:
        """Close all connections. Threads that read an answer get an error."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy.values())
        for _, connection in idle:
            connection.close()
        for one in busy:
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # below TLS, which another thread may be using

    def keep(self, server: SplitResult, connection: http.client.HTTPConnection) -> None:
        """Keep a connection for later requests."""
        with self._lock:
            if not self._is_closed and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append((server, connection))
                del self._busy[connection]
                return
        self._dropped(connection)

    def _dropped(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.pop(connection, None)
        connection.close()

    def _connected(self, server: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
        connection = self._taken(server) or _opened(server, proxy)
        with self._lock:
            if not self._is_closed:
                self._busy[connection] = connection.sock
                return connection
        connection.close()
        raise client_closed()

    def _taken(self, server: SplitResult) -> http.client.HTTPConnection | None:
        with self._lock:
            while self._idle:
                leads_to, connection = self._idle.pop()
                if leads_to == server and not _has_ended(connection.sock):
                    return connection
                connection.close()
        return None


class _End:
    """The end of an answer: keeps its connection or closes it, once."""

    def __init__(
        self,
        connections: Connections,
        server: SplitResult,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        self._connections = connections
        self._server = server
        self._connection = connection
        self._response = response
        self._is_over = False

    def __call__(self, *, is_whole: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._response.close()
        if is_whole and not self._response.will_close:
            self._connections.keep(self._server, self._connection)
        else:
            self._connections._dropped(self._connection)


def unreachable(url: str, cause: Exception | str) -> ServerUnreachableError:
    """Return the error for a server that does not answer."""
    parts = urlsplit(url)
    reason = str(cause) or type(cause).__name__
    start = "Start one with `dstack server`" if systems.HAS_SERVERS else "Start it there"
    return ServerUnreachableError(
        f"No server answers at `{parts.scheme}://{parts.netloc}` ({reason})",
        hint=f"{start}, or correct the URL in `~/.dstack/config.yml` or `DSTACK_SERVER_URL`",
    )


def _has_ended(sock: socket.socket) -> bool:
    """Whether the server has closed an idle connection."""
    sock.settimeout(0)
    try:
        socket.socket.recv(sock, 1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _opened(server: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
    """Connect to a server, through a proxy if one is given."""
    if server.scheme not in PORTS or not server.hostname:
        raise ValueError("it has no `http://` or `https://` with a host behind it")
    port = server.port or PORTS[server.scheme]
    host, entry = (server.hostname, port) if proxy is None else (proxy.hostname or "", proxy.port or PORTS["http"])
    connection: http.client.HTTPConnection
    if server.scheme == "http":
        connection = http.client.HTTPConnection(host, entry, timeout=CONNECT_TIMEOUT_S)
    else:
        connection = http.client.HTTPSConnection(host, entry, timeout=CONNECT_TIMEOUT_S, context=_authorities())
        if proxy is not None:
            connection.set_tunnel(server.hostname, port, _proxy_headers(proxy))
    if systems.CTRL_C_WAITS:
        from dstack.api._interruptible import Response

        connection.response_class = Response
    connection.connect()
    return connection


def _authorities() -> "http.client.ssl.SSLContext":  # type: ignore[name-defined]
    """Return a TLS context that trusts the system's certificate authorities."""
    import ssl

    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:  # a Python with its own OpenSSL may have no authorities
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _proxy_of(server: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment or the system names for a server; None for a server on this machine."""
    if is_loopback(server.geturl()):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    named = proxies.get(server.scheme) or proxies.get("all")
    if not named or proxy_bypass(server.hostname or ""):
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http":
        raise ConfigurationError(
            f"The proxy `{proxy.scheme}://{proxy.hostname}` cannot be used: only `http://` proxies can",
            hint=f"Set `{server.scheme}_proxy` to one, or name the server's host in `no_proxy`",
        )
    return proxy


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
