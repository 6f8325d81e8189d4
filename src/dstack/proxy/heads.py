"""The heads of messages: read strictly, and as they go on.

A head goes on without what concerns one hop only, and without what a client could forge. Clients and replicas send the
same headers again and again. `Heads` remembers those that it has read, so that most heads cost one look-up.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TypeAlias, TypeVar

import httptools

from dstack.proxy.answers import CLOSE, KEEP, Refusal
from dstack.proxy.framing import Headers

T = TypeVar("T")

HEAD_BYTES_MAX = 64 << 10
HEADERS_MAX = 200
NAMES_MAX = 1024
"""The number of names of headers that are remembered in other spellings."""
REMEMBERED_MAX = 1024
"""The number of heads of each kind."""
SEEN_MAX = 8192
"""The number of heads that are recognized the second time."""
REMEMBERED_BYTES_MAX = 4096
"""Of one head; a longer one is read again."""

_ONE_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate"),
        *(b"te", b"transfer-encoding", b"upgrade", b"content-length"),
    )
)
"""RFC 9110, 7.6.1. The framing is written for each hop."""

_FORGEABLE = frozenset(
    (
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port"),
        *(b"x-forwarded-prefix", b"x-forwarded-server", b"x-real-ip"),
    )
)
_NOT_IN_REQUESTS = _ONE_HOP | _FORGEABLE
_NOT_IN_TRAILERS = _NOT_IN_REQUESTS | {
    *(b"host", b"authorization", b"cookie", b"set-cookie", b"expect", b"range", b"trailer", b"content-type"),
    *(b"content-encoding", b"content-range", b"cache-control"),
}
"""Fields that decide on routing, rights or framing have no effect behind a body (RFC 9110, 6.5.1)."""
_NEVER_LISTED = frozenset((b"host", b"authorization"))
"""Names that a `Connection` header cannot remove."""

AUTHORIZATION = b"authorization"
_JUDGED = frozenset(
    (*(b"host", AUTHORIZATION, b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"expect"),)
)
_WEBSOCKET_LINES = b"connection: upgrade\r\nupgrade: websocket\r\n"
_CHUNKED_LINE = b"transfer-encoding: chunked\r\n"

_NAME = rb'[!"$-.0->@-~]+'
_REST = rb'(?:[/?][!"$-~]*)?'
_PLACE_TEXT = rb"(/proxy/(?:services/" + _NAME + rb"/" + _NAME + rb"|[a-z]+))(" + _REST + rb")"
_PLACE = re.compile(_PLACE_TEXT)
_START = re.compile(rb"(GET|POST|HEAD|PUT|PATCH|DELETE|OPTIONS) " + _PLACE_TEXT + rb" (?=HTTP/1\.[01]\r\n)")
_AUTHORITY = re.compile(rb"[A-Za-z0-9.\-_:\[\]%]+")

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class RequestFields:
    """All that the headers of a request mean. The same headers are the same object."""

    def __init__(self, headers: Headers, target_host: bytes | None, is_http_1_0: bool, method: bytes) -> None:
        """Raises `Refusal`.

        Args:
            target_host: that of an absolute target, which counts more than the header.
        """
        self.headers = headers
        self.is_http_1_0 = is_http_1_0
        found = _found(headers)
        self.host = self._host(found.get(b"host", ()), target_host)
        self.authorization = found.get(AUTHORIZATION, (None,))[0]
        self.listed = _listed(found) - _NEVER_LISTED
        self.keep_alive = b"keep-alive" in self.listed if is_http_1_0 else b"close" not in self.listed
        lengths = found.get(b"content-length", ())
        self.is_chunked = self._is_chunked(found.get(b"transfer-encoding", ()), lengths)
        self.length = _length(lengths)
        self.has_body = self.is_chunked or self.length > 0
        self.is_upgrade = (
            b"upgrade" in self.listed
            and [one.lower() for one in found.get(b"upgrade", ())] == [b"websocket"]
            and (method, is_http_1_0, self.has_body) == (b"GET", False, False)
        )
        self.expects_continue = not is_http_1_0 and found.get(b"expect") == [b"100-continue"]
        self._framing = b"content-length: %d\r\n" % self.length if lengths else b""
        if self.is_chunked:
            self._framing = _CHUNKED_LINE
        if self.is_upgrade:
            self._framing += _WEBSOCKET_LINES

    def _host(self, hosts: Sequence[bytes], target_host: bytes | None) -> bytes:
        """Return the host. Exactly one is expected, or none from a client of HTTP/1.0."""
        if len(hosts) > 1 or not (hosts or self.is_http_1_0):
            raise Refusal(400, "invalid_request", "Expected one `Host` header")
        host = hosts[0] if hosts else b"localhost"
        if target_host is not None:
            host = target_host
        if host and not _AUTHORITY.fullmatch(host):
            raise Refusal(400, "invalid_request", "The `Host` header names no host")
        if not hosts or hosts[0] != host:
            self.headers = [(b"Host", host), *(one for one in self.headers if one[0].lower() != b"host")]
        return host

    def _is_chunked(self, encodings: Sequence[bytes], lengths: Sequence[bytes]) -> bool:
        """Return whether the body comes in chunks."""
        if not encodings:
            return False
        if lengths or self.is_http_1_0:
            raise Refusal(400, "invalid_request", "`Transfer-Encoding` goes neither with `Content-Length` nor HTTP/1.0")
        if [one.lower() for one in encodings] != [b"chunked"]:
            raise Refusal(501, "not_supported", "The only `Transfer-Encoding` that is supported is `chunked`")
        return True

    def persistence(self, keep_alive: bool) -> bytes:
        """Return the header line about the end of the client's connection; empty where it is not needed."""
        if not keep_alive:
            return CLOSE
        return KEEP if self.is_http_1_0 else b""

    def lines(self, with_token: bool) -> bytes:
        """Return the header lines as they go on.

        Args:
            with_token: False where the token was for the data plane.
        """
        return self.lines_with(self._framing, () if with_token else (AUTHORIZATION,))

    def lines_with(self, framing: bytes, dropped: Collection[bytes] = ()) -> bytes:
        """Return the header lines as they go on.

        Args:
            framing: whole header lines.
            dropped: the names of headers that do not go on, in lower case.
        """
        unwanted = _NOT_IN_REQUESTS
        if self.listed or dropped:
            unwanted = unwanted.union(self.listed, dropped)
        if self.is_http_1_0:
            unwanted |= {b"expect"}
        return _lines(self.headers, unwanted) + framing


class AnswerHead:
    """The head of an answer, read."""

    __slots__ = ("headers", "is_chunked", "is_plain", "keeps", "length", "lines", "sends_chunks", "status", "whole")

    def __init__(self, status: int, headers: Headers, is_http_1_0: bool) -> None:
        """Raises `ValueError` with the reason why it cannot be believed."""
        self.status = status
        self.headers = headers
        found = _found(headers)
        listed = _listed(found)
        self.keeps = b"keep-alive" in listed if is_http_1_0 else b"close" not in listed
        """Whether the connection may be used again."""
        encodings, lengths = found.get(b"transfer-encoding", ()), found.get(b"content-length", ())
        if encodings and (lengths or is_http_1_0 or [one.lower() for one in encodings] != [b"chunked"]):
            raise ValueError("its `Transfer-Encoding` is not clear")
        if len(lengths) > 1:
            raise ValueError("it has several lengths")
        self.is_chunked = bool(encodings)
        self.length = int(lengths[0]) if lengths else None
        has_no_body = status < 200 or status in (204, 304)
        self.sends_chunks = self.length is None and not has_no_body
        """Whether it goes on in chunks: it comes in chunks, or ends with its connection."""
        unwanted = _ONE_HOP | listed if listed else _ONE_HOP
        self.lines = (_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status) + _lines(headers, unwanted)
        """Without those that frame the body."""
        self.is_plain = self.keeps and self.length is not None and not has_no_body
        """Whether its body has a fixed length, and its connection stays."""
        self.whole = b"".join((self.lines, self.framing_line, b"\r\n"))
        """As it goes on in the usual case: to a client of HTTP/1.1 whose connection stays."""

    @property
    def framing_line(self) -> bytes:
        """Return the header line that frames the body, for HTTP/1.1."""
        if self.sends_chunks:
            return _CHUNKED_LINE
        if self.length is None or self.status < 200 or self.status == 204:
            return b""
        return b"content-length: %d\r\n" % self.length


Request: TypeAlias = tuple[bytes, bytes, bytes, RequestFields]
"""The head of a request, read: method, start of the path, rest of the path with the query, headers. The start ends with
the service's name: `/proxy/services/main/web`."""


class Heads:
    """Reads heads, and remembers them."""

    def __init__(self) -> None:
        self._requests: dict[bytes, RequestFields] = {}
        """By all behind the target."""
        self.answers: dict[bytes, AnswerHead] = {}
        """Those that were read, by their bytes."""
        self._seen: set[int] = set()
        """The hashes of those that were read once: most of them do not return, and would only fill the memory."""

    def request(self, data: bytes, end: int) -> Request:
        """Read the head of a request.

        Args:
            data: the head, whole, and anything behind it.
            end: the place behind the empty line.

        Raises:
            Refusal: it cannot be served.
        """
        start = _START.match(data)
        if start is None:
            return _request(data[:end])
        block = data[start.end() : end]
        fields = self._requests.get(block)
        if fields is None:
            request = _request(data[:end])
            fields = request[3]
            # Otherwise the method makes a difference: an upgrade is possible with GET alone.
            if len(block) <= REMEMBERED_BYTES_MAX and b"upgrade" not in fields.listed:
                self._remember(self._requests, block, fields)
            return request
        method, prefix, rest = start.groups()
        return method, prefix, rest, fields

    def answer(self, head: bytes) -> AnswerHead:
        """Read the head of an answer: whole, with the empty line. Raises `ValueError` with a reason."""
        known = self.answers.get(head)
        if known is None:
            known = _answer(head)
            if len(head) <= REMEMBERED_BYTES_MAX:
                self._remember(self.answers, head, known)
        return known

    def _remember(self, known: dict[bytes, T], key: bytes, value: T) -> None:
        mark = hash(key)
        if mark not in self._seen:
            if len(self._seen) >= SEEN_MAX:
                self._seen.clear()
            self._seen.add(mark)
            return
        if len(known) >= REMEMBERED_MAX:
            known.clear()
        known[key] = value


class _Parts:
    """All that the parser reports of one head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: Headers = []
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def _request(head: bytes) -> Request:
    parts = _Parts()
    parser = httptools.HttpRequestParser(parts)
    try:
        _feed(parser, parts, head)
    except httptools.HttpParserInvalidMethodError:
        raise Refusal(501, "not_supported", "This method is not known") from None
    except (httptools.HttpParserError, ValueError) as error:
        raise Refusal(400, "invalid_request", f"This is not an HTTP request: {error}") from None
    method, version = parser.get_method(), parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise Refusal(505, "not_supported", "Expected HTTP/1.1")
    if method in (b"CONNECT", b"TRACE"):
        raise Refusal(501, "not_supported", f"The method {method.decode()} is not supported")
    if not head.startswith(b"%b %b HTTP/%b\r\n" % (method, parts.url, version.encode())):
        raise Refusal(400, "invalid_request", "The first line of the request is not clear")
    if len(parts.headers) > HEADERS_MAX:
        raise Refusal(431, "invalid_request", f"The request has too many headers: at most {HEADERS_MAX} are taken")
    target, host = _origin_form(parts.url)
    place = _PLACE.fullmatch(target)
    if place is None:
        raise Refusal(404, "not_found", f"There is nothing at {target[:80].decode('latin-1')!r}")
    return (method, place[1], place[2], RequestFields(parts.headers, host, version == "1.0", method))


def _origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """Return the path of a target with its query, and the host if it has one."""
    if b"#" in target:
        raise Refusal(400, "invalid_request", "The target of a request has no fragment")
    if target.startswith(b"/"):
        return target, None
    scheme, _, rest = target.partition(b"://")
    host, slash, path = rest.partition(b"/")
    if scheme.lower() not in (b"http", b"https") or not host or b"?" in host:
        raise Refusal(400, "invalid_request", "The target of the request is not clear")
    return slash + path, host


def _answer(head: bytes) -> AnswerHead:
    parts = _Parts()
    parser = httptools.HttpResponseParser(parts)
    try:
        _feed(parser, parts, head)
    except httptools.HttpParserError as error:
        raise ValueError(str(error)) from None
    if parser.get_http_version() not in ("1.0", "1.1"):
        raise ValueError("its version is not HTTP/1.1")
    return AnswerHead(parser.get_status_code(), parts.headers, parser.get_http_version() == "1.0")


def _feed(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, parts: _Parts, head: bytes) -> None:
    """Read a head that is whole. Raises `ValueError` if it ends earlier or later than at its first empty line."""
    if not head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n"):
        raise ValueError("a line does not end with CR LF")
    try:  # noqa: SIM105 - the parser goes on behind a head that switches protocols in its own way
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    if not parts.is_complete:
        raise ValueError("its head is not complete")


def _found(headers: Headers) -> dict[bytes, list[bytes]]:
    """Return the values of the headers that are judged here, by their names in lower case."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        judged = _judged(name)
        if judged is not None:
            found.setdefault(judged, []).append(value)
    return found


@lru_cache(maxsize=NAMES_MAX)
def _judged(name: bytes) -> bytes | None:
    """Return the name of a header in lower case if it is judged here."""
    name = name.lower()
    return name if name in _JUDGED else None


def _listed(found: dict[bytes, list[bytes]]) -> frozenset[bytes]:
    """Return the names that `Connection` headers list, in lower case."""
    values = found.get(b"connection")
    if values is None:
        return frozenset()
    return frozenset(name.strip(b" \t").lower() for value in values for name in value.split(b","))


def _length(values: Sequence[bytes]) -> int:
    if not values:
        return 0
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 18:
        raise Refusal(400, "invalid_request", "Expected one `Content-Length`, in digits")
    return int(values[0])


def _lines(headers: Headers, unwanted: frozenset[bytes]) -> bytes:
    """Return header lines."""
    lines = [b": ".join(one) for one in headers if _plain(one[0]) not in unwanted]
    lines.append(b"")
    return b"\r\n".join(lines)


@lru_cache(maxsize=NAMES_MAX)
def _plain(name: bytes) -> bytes:
    """Return a name as it is compared: `_` counts as `-`, as it does for programs behind CGI and WSGI."""
    name = name.lower()
    return name.replace(b"_", b"-") if b"_" in name else name


def kept_trailers(trailers: Headers) -> Headers:
    """Return the trailers that may go on."""
    return [one for one in trailers if _plain(one[0]) not in _NOT_IN_TRAILERS]
