"""Calls to a cloud that answers as each test says, over real connections."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dstack.backends import http
from dstack.backends.http import Http, HttpError
from dstack.errors import BackendError, BackendInvalidCredentialsError, BackendUnavailable, DstackError, NoCapacityError
from dstack.kit.clock import elapsed_s

KEY = "s3cret-key"
Answer = tuple[int, dict[str, str], bytes]


def reply(status: int, body: Any = None, **headers: str) -> Answer:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()


CUT = (-1, {}, b"")
"""No answer: the connection ends."""


@dataclass
class Cloud:
    """A server with answers to give, in order; the last one again and again."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path with query, and body of each request."""

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            made.asked.append((self.command, self.path, self.rfile.read(length).decode()))
            status, headers, body = made.next_answer()
            if status < 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def make(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Http]]:
    monkeypatch.setattr(http, "FIRST_PAUSE", timedelta(milliseconds=1))
    monkeypatch.setattr(http, "LONGEST_PAUSE", timedelta(milliseconds=2))
    clients: list[Http] = []

    def made(**fields: Any) -> Http:
        values: dict[str, Any] = {"headers": {"Authorization": f"Bearer {KEY}"}, "secrets": [KEY], **fields}
        clients.append(Http("Vapor", values.pop("url", cloud.url), **values))
        return clients[-1]

    yield made
    for client in clients:
        client.close()


def test_answer_is_json_and_an_empty_one_is_nothing(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(200, {"id": 7}), (204, {}, b"")]
    client = make()
    assert client.call("POST", "/pods", body={"gpu": "H100"}, query={"zone": "a b", "spot": None}) == {"id": 7}
    assert client.call("DELETE", "/pods/7") is None
    assert cloud.asked == [("POST", "/v1/pods?zone=a+b", '{"gpu":"H100"}'), ("DELETE", "/v1/pods/7", "")]


@pytest.mark.parametrize(
    ("method", "failure", "tries"),
    [
        ("GET", reply(503), 3),
        ("GET", CUT, 3),
        ("DELETE", reply(500), 3),
        ("POST", reply(429), 3),
        ("POST", reply(503), 1),
        ("POST", reply(500), 1),
        ("POST", CUT, 1),
        ("GET", reply(404), 1),
        ("GET", reply(401), 1),
    ],
)
def test_call_is_repeated_only_where_it_can_have_had_no_second_effect(
    cloud: Cloud, make: Callable[..., Http], method: str, failure: Answer, tries: int
) -> None:
    cloud.answers = [failure, failure, reply(200, "done")]
    client = make()
    if tries == 3:
        assert client.call(method, "/pods") == "done"
    else:
        with pytest.raises(DstackError):
            client.call(method, "/pods")
    assert len(cloud.asked) == tries


def test_driver_may_declare_a_call_idempotent(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [CUT, reply(200, "done")]
    assert make().call("POST", "/search", idempotent=True) == "done"


def test_tries_end(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(503, {"error": {"message": "maintenance"}})]
    with pytest.raises(BackendUnavailable, match=r"Vapor, GET /v1/pods: the answer is 503: maintenance"):
        make().call("GET", "/pods")
    assert len(cloud.asked) == http.TRIES_MAX


def test_connection_that_is_refused_is_tried_again_for_any_method(make: Callable[..., Http]) -> None:
    tried: list[str] = []
    client = make(url="http://127.0.0.1:1")
    client._client.event_hooks = {"request": [lambda request: tried.append(request.method)]}
    with pytest.raises(BackendUnavailable):
        client.call("POST", "/pods")
    assert tried == ["POST"] * http.TRIES_MAX


def test_retry_after_is_waited_for_and_a_long_one_is_reported_at_once(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(429, Retry_After="0"), reply(429, Retry_After="3600")]
    client = make()
    with pytest.raises(BackendUnavailable, match="429"):
        client.call("GET", "/pods")
    assert len(cloud.asked) == 2, "an hour is longer than a call may take"
    with pytest.raises(BackendUnavailable, match="too many other calls"):
        client.call("GET", "/pods")
    assert len(cloud.asked) == 2, "the whole account waits"


def test_date_of_retry_after_is_understood(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(429, Retry_After="Wed, 01 Jan 2020 00:00:00 GMT"), reply(200, "done")]
    assert make().call("POST", "/pods") == "done"


def test_rate_limit_spaces_calls_of_all_threads(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(200)]
    client = make(per_second=1000.0)
    waits = [client._turns.take(elapsed_s() + 1) or 0.0 for _ in range(5)]
    assert waits == sorted(waits) and waits[-1] > 0.003 > waits[0]
    slow = make(per_second=0.001)
    slow.call("GET", "/pods")
    with pytest.raises(BackendUnavailable, match="too many other calls"):
        slow.call("GET", "/pods")


def test_call_that_is_not_made_takes_no_turn(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(200)]
    client = make(per_second=0.001)
    client.call("GET", "/pods")
    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="too many other calls"):
            client.call("GET", "/pods")
    assert client._turns.take(elapsed_s() + 1000) is not None


@pytest.mark.parametrize("wait", ["86400", "9" * 40, "Fri, 01 Jan 9999 00:00:00 GMT"])
def test_cloud_holds_calls_up_for_minutes_at_most(cloud: Cloud, make: Callable[..., Http], wait: str) -> None:
    cloud.answers = [reply(429, Retry_After=wait)]
    client = make()
    with pytest.raises(BackendUnavailable, match="429"):
        client.call("DELETE", "/pods/7")
    assert client._turns.take(elapsed_s() + http.LONGEST_HOLD_S) is not None


def test_date_that_is_none_is_no_pause(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(429, Retry_After=f"Fri, 01 Jan {'9' * 30} 00:00:00 GMT"), reply(200, "done")]
    assert make().call("GET", "/pods") == "done"


def test_refusals_have_the_errors_of_our_tree_and_the_clouds_words(cloud: Cloud, make: Callable[..., Http]) -> None:
    def judge(error: HttpError) -> DstackError | None:
        return NoCapacityError(error.message) if error.body == {"code": "insufficient-capacity"} else None

    client = make(judge=judge)
    expected: list[tuple[Answer, type[DstackError], str]] = [
        (reply(401, {"message": "bad key"}), BackendInvalidCredentialsError, "401: bad key"),
        (reply(403), BackendInvalidCredentialsError, "403"),
        (reply(400, {"code": "insufficient-capacity"}), NoCapacityError, "400"),
        (reply(409, {"errors": [{"detail": "name taken"}]}), HttpError, "409: name taken"),
        (reply(302, Location="http://example.com"), HttpError, "302"),
        ((200, {}, b"<html>"), BackendError, "the answer is not JSON"),
    ]
    for answer, kind, words in expected:
        cloud.answers = [answer]
        with pytest.raises(kind, match=words):
            client.call("POST", "/pods")
    assert len(cloud.asked) == len(expected)


def test_credentials_are_in_no_message(cloud: Cloud, make: Callable[..., Http]) -> None:
    cloud.answers = [reply(400, {"message": f"the key {KEY} is of another project"})]
    with pytest.raises(HttpError) as refused:
        make().call("GET", f"/keys/{KEY}", query={"key": KEY})
    assert KEY not in repr(refused.value) + str(refused.value)
    assert str(refused.value) == "Vapor, GET /v1/keys/***: the answer is 400: the key *** is of another project"


def test_answer_that_is_too_large_is_refused(
    cloud: Cloud, make: Callable[..., Http], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ANSWER_BYTES_MAX", 10)
    cloud.answers = [reply(200, "x" * 100)]
    with pytest.raises(HttpError, match="the answer is too large"):
        make().call("GET", "/pods")


def test_closed_client_ends_its_pauses(
    cloud: Cloud, make: Callable[..., Http], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", timedelta(seconds=30))
    cloud.answers = [reply(503)]
    client = make()
    client._closed.set()
    with pytest.raises(BackendUnavailable):
        client.call("GET", "/pods")
    assert len(cloud.asked) == 1
