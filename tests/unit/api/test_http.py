"""HTTP by the standard library: which connection a request takes, and what becomes of it."""

import socket
import threading
from collections.abc import Iterator

import pytest

from dstack.api import _http
from dstack.api._http import Answer, Connections
from dstack.errors import ConfigurationError, ServerUnreachableError
from tests.patience import PATIENCE_S

from . import conftest
from .conftest import Asked, FakeServer


@pytest.fixture
def connections() -> Iterator[Connections]:
    one = Connections()
    yield one
    one.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The local port of each connection that was made."""
    ports: list[int] = []
    real = _http._opened

    def counted(*args: object) -> object:
        connection = real(*args)  # type: ignore[arg-type]
        ports.append(connection.sock.getsockname()[1])
        return connection

    monkeypatch.setattr(_http, "_opened", counted)
    return ports


def get(connections: Connections, url: str, target: str = "/x") -> Answer:
    return connections.send("GET", url, target, body=None, headers={}, timeout_s=PATIENCE_S)


def raw_server(*answers: bytes) -> tuple[str, threading.Thread]:
    """A server that gives one connection each of the answers after one read, and closes it after the last."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            for answer in answers:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


def test_requests_that_follow_each_other_share_one_connection(
    server: FakeServer, connections: Connections, opened: list[int]
) -> None:
    server.answer = lambda asked: conftest.Answer(body=b"hello")
    assert [get(connections, server.url).read() for _ in range(3)] == [b"hello"] * 3
    assert len(opened) == 1


def test_an_answer_that_is_not_read_to_its_end_costs_its_connection(
    server: FakeServer, connections: Connections, opened: list[int]
) -> None:
    get(connections, server.url).close()
    assert get(connections, server.url).read() == b"{}"
    assert len(opened) == 2


def test_a_connection_that_the_server_has_closed_is_not_used_again(connections: Connections, opened: list[int]) -> None:
    url, thread = raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert get(connections, url).read() == b"{}"
    thread.join()
    with pytest.raises(ServerUnreachableError, match="refused"):
        get(connections, url)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_a_body_that_is_cut_off_is_an_error_and_never_a_shorter_body(connections: Connections, answer: bytes) -> None:
    url, thread = raw_server(answer)
    found = get(connections, url)
    chunks = found.chunks()
    assert next(chunks) == b"half"
    with pytest.raises(ServerUnreachableError, match="No server answers"):
        next(chunks)
    thread.join()


def test_closing_wakes_a_thread_that_waits_for_a_body(server: FakeServer, connections: Connections) -> None:
    begun, over = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"first"
        over.wait(PATIENCE_S)

    server.answer = lambda asked: conftest.Answer(chunks=body())
    errors: list[ServerUnreachableError] = []

    def read() -> None:
        chunks = get(connections, server.url).chunks()
        assert next(chunks) == b"first"
        begun.set()
        try:
            next(chunks)
        except ServerUnreachableError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(PATIENCE_S)
    connections.close()
    reader.join(PATIENCE_S)
    over.set()
    assert len(errors) == 1


def test_a_server_that_refuses_a_body_while_it_is_sent_is_heard(connections: Connections) -> None:
    url, thread = raw_server(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch")
    answer = connections.send("PUT", url, "/x", body=b"x" * (1 << 16), headers={}, timeout_s=PATIENCE_S)
    assert (answer.status, answer.read()) == (413, b"much")
    thread.join()


def test_a_server_elsewhere_is_asked_through_the_proxy_of_the_environment(
    server: FakeServer, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:s3cr%20et@"))
    monkeypatch.delenv("no_proxy", raising=False)
    server.answer = lambda asked: conftest.Answer(body=asked.headers["Host"].encode())
    assert get(connections, "http://dstack.invalid:3000/sub", "/api").read() == b"dstack.invalid:3000"
    asked: Asked = server.asked[0]
    assert (asked.path, asked.headers["Proxy-Authorization"]) == ("/sub/api", "Basic bWU6czNjciBldA==")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "https://127.0.0.1:1"])
def test_a_proxy_of_another_kind_is_refused_by_name(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ConfigurationError, match=f"The proxy `{proxy.rpartition(':')[0]}` cannot be used"):
        get(connections, "https://dstack.invalid")
