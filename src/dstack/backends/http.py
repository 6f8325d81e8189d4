"""HTTP to clouds, shared by their drivers: time-outs, retries, rate limits, and errors of our tree.

A call is repeated only where that is safe: the cloud refused it before it did anything, or the call is idempotent.
"""

import json
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

import httpx

from dstack.errors import BackendError, BackendInvalidCredentialsError, BackendUnavailable, DstackError
from dstack.kit.clock import SystemClock, elapsed_s
from dstack.kit.pauses import Pauses

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
PATIENCE_S = 60.0
"""The longest time of one call with its repetitions: none begins later."""
TRIES_MAX = 5
FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=500), timedelta(seconds=15)
LONGEST_HOLD_S = 300.0
"""The longest time for which a cloud holds up all calls of an account by one answer."""
CONNECTIONS_MAX = 16
ANSWER_BYTES_MAX = 64 << 20
MESSAGE_CHARACTERS_MAX = 300
IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
TOO_MANY = 429
"""The status of a call that the cloud refused before it did anything, since there were too many."""
TRANSIENT = frozenset((408, 500, 502, 503, 504))
"""The statuses of calls that may have had an effect."""
HIDDEN = "***"

Judge: TypeAlias = Callable[["HttpError"], DstackError | None]


class HttpError(BackendError):
    """A cloud refused a call."""

    def __init__(self, message: str, status: int, body: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        """The answer: parsed JSON, or text. Not judged yet."""


class _Again(Exception):
    """A call failed, and may be repeated after a pause."""

    def __init__(self, error: DstackError, pause_s: float = 0.0) -> None:
        super().__init__()
        self.error = error
        self.pause_s = pause_s


class Http:
    """The calls of one account at a cloud. Threads share it.

    Args:
        name: the cloud in a sentence, such as `Lambda`.
        base_url: the beginning of every URL.
        headers: sent with each call, such as `Authorization`.
        secrets: texts that no message may contain.
        per_second: the most calls a second; None without limit.
        judge: returns the error of a refusal that means something particular at this cloud, such as a
            `NoCapacityError`; None for the usual one.
        patience_s: the longest time of one call with its repetitions.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: Collection[str] = (),
        per_second: float | None = None,
        judge: Judge = lambda error: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._name = name
        self._judge = judge
        self._patience_s = patience_s
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self._turns = _Turns(per_second)
        self._closed = threading.Event()
        self._client = httpx.Client(
            base_url=base_url,
            headers=dict(headers or {}),
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            follow_redirects=False,  # credentials go to no other host
        )

    def close(self) -> None:
        """End all pauses, and close all connections."""
        self._closed.set()
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> Any:
        """Return the cloud's answer as JSON; None for an empty one.

        Args:
            method: such as `GET`.
            path: added to the base URL.
            body: sent as JSON.
            query: parameters after the `?`; those that are None are left out.
            headers: more headers.
            idempotent: whether the call may be repeated after it may have had an effect; by default, by its method.

        Raises:
            BackendInvalidCredentialsError: the cloud does not accept the credentials, or does not permit the call.
            BackendUnavailable: the cloud does not answer, or is too busy.
            HttpError: the cloud refused the call for another reason.
            DstackError: the error of `judge`.
        """
        may_repeat = method in IDEMPOTENT if idempotent is None else idempotent
        parameters = {key: value for key, value in (query or {}).items() if value is not None}
        request = self._client.build_request(method, path, json=body, params=parameters, headers=dict(headers or {}))
        deadline_s = elapsed_s() + self._patience_s
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        for left in reversed(range(TRIES_MAX)):
            turn_s = self._turns.take(deadline_s)
            if turn_s is None or not self._pause(turn_s, deadline_s):
                raise self._unavailable(request, "too many other calls of this server wait for it")
            try:
                return self._call_once(request, may_repeat=may_repeat)
            except _Again as again:
                pause_s = max(again.pause_s, pauses.next().total_seconds())
                if left == 0 or not self._pause(pause_s, deadline_s):
                    raise again.error from None
        raise AssertionError("the last try returns or raises")

    def _pause(self, pause_s: float, deadline_s: float) -> bool:
        """Wait; return whether a call may begin then."""
        if elapsed_s() + pause_s > deadline_s:
            return False
        return pause_s <= 0 or not self._closed.wait(pause_s)

    def _call_once(self, request: httpx.Request, *, may_repeat: bool) -> Any:
        """Return the answer. Raises `_Again` for a failure after which the call may be repeated."""
        try:
            status, headers, content = self._send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:  # nothing was sent
            raise _Again(self._unavailable(request, _reason_of(error))) from None
        except httpx.HTTPError as error:
            unavailable = self._unavailable(request, _reason_of(error))
            raise (_Again(unavailable) if may_repeat else unavailable) from None
        if 200 <= status < 300:
            return self._json_of(request, content)
        refused = self._error_of(request, status, content)
        pause_s = _retry_after_s(headers)
        if status == TOO_MANY:
            self._turns.hold(pause_s)
        is_repeated = status == TOO_MANY or (status in TRANSIENT and may_repeat)
        raise _Again(refused, pause_s) if is_repeated and refused.retryable else refused

    def _send(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        response = self._client.send(request, stream=True)
        try:
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > ANSWER_BYTES_MAX:
                    raise HttpError(f"{self._what(request)}: the answer is too large", response.status_code, None)
            return response.status_code, response.headers, bytes(content)
        finally:
            response.close()

    def _json_of(self, request: httpx.Request, content: bytes) -> Any:
        if not content.strip():
            return None
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise BackendError(f"{self._what(request)}: the answer is not JSON") from None

    def _error_of(self, request: httpx.Request, status: int, content: bytes) -> DstackError:
        body = _parsed(content)
        said = f"{self._what(request)}: the answer is {status}{self._shown(_message_in(body))}"
        refusal = HttpError(said, status, body)
        if (particular := self._judge(refusal)) is not None:
            return particular
        if status in (401, 403):
            return BackendInvalidCredentialsError(said, hint="Check the credentials and their permissions")
        if status == TOO_MANY or status in TRANSIENT:
            return BackendUnavailable(said)
        return refusal

    def _unavailable(self, request: httpx.Request, why: str) -> BackendUnavailable:
        return BackendUnavailable(f"{self._what(request)}{self._shown(why)}")

    def _what(self, request: httpx.Request) -> str:
        """Return the call in a sentence, without its query, which may have credentials."""
        return self._concealed(f"{self._name}, {request.method} {request.url.path}")

    def _shown(self, text: str) -> str:
        shown = self._concealed(" ".join(text.split()))[:MESSAGE_CHARACTERS_MAX]
        return f": {shown}" if shown else ""

    def _concealed(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


class _Turns:
    """The times at which calls may begin, so that there are not too many a second."""

    def __init__(self, per_second: float | None) -> None:
        self._interval_s = 0.0 if per_second is None else 1 / per_second
        self._next_at_s = 0.0
        self._taking = threading.Lock()

    def take(self, deadline_s: float) -> float | None:
        """Return the seconds until the caller's turn; None, and no turn, where that is after its deadline."""
        with self._taking:
            now_s = elapsed_s()
            turn_s = max(now_s, self._next_at_s)
            if turn_s > deadline_s:
                return None
            self._next_at_s = turn_s + self._interval_s
            return turn_s - now_s

    def hold(self, pause_s: float) -> None:
        """Let no call begin for some seconds, as the cloud asked; machines that are to end cost money meanwhile."""
        with self._taking:
            self._next_at_s = max(self._next_at_s, elapsed_s() + min(pause_s, LONGEST_HOLD_S))


def _reason_of(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.WriteTimeout):
        return "it did not answer in time"
    return str(error) or type(error).__name__


def _retry_after_s(headers: httpx.Headers) -> float:
    """Return the pause that the cloud asks for, in seconds; 0 for none."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - _now()).total_seconds())


def _now() -> datetime:
    return SystemClock().now()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content[: MESSAGE_CHARACTERS_MAX * 4].decode("utf-8", "replace")


def _message_in(body: Any) -> str:
    """Return the message in an answer, wherever clouds put it.

    Examples:
        >>> _message_in({"error": {"code": "quota", "message": "Too many"}}), _message_in({"detail": "No such pod"})
        ('Too many', 'No such pod')
        >>> _message_in([{"msg": "Bid too low"}]), _message_in("gone"), _message_in(None)
        ('Bid too low', 'gone', '')
    """
    for _ in range(4):
        match body:
            case dict():
                names = ("message", "detail", "msg", "error_description", "error", "errors", "title")
                body = next((body[name] for name in names if body.get(name)), "")
            case list():
                body = body[0] if body else ""
            case _:
                break
    return body if isinstance(body, str) else ""
