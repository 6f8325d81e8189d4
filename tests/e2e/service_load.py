"""Load on a service: plain requests, streams and a socket, whose failures are recorded."""

import http.client
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.home import TOKEN, wait_for
from tests.patience import PATIENCE_S

LINES = 20
"""Of one stream."""
PAUSE_S = 0.01
"""Between the requests of one client, so that the load leaves something of the processors."""


@dataclass(frozen=True)
class Failure:
    """A request that was not answered as it should be."""

    kind: str
    detail: str
    replica: str = ""
    """The one whose answer had begun."""


class Load:
    """Clients that ask again and again. A replica answers `NAME…` to a plain request, and so begins each stream."""

    def __init__(
        self,
        port: int,
        path: str,
        *,
        has_socket: bool = True,
        get: str = "/",
        post: str = "/post",
        stream: str = "/stream",
    ):
        self.failures: list[Failure] = []
        self.replicas: set[str] = set()
        """The names of those that have answered."""
        self._port, self._path = port, path
        self._get, self._post, self._stream = get, post, stream
        self._is_over = threading.Event()
        self._counts = {"kept": 0, "new": 0, "POST": 0, "stream": 0} | ({"socket": 0} if has_socket else {})
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in self._counts]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Yield once each client has been answered; end behind their last answers."""
        for thread in self._threads:
            thread.start()
        try:
            self.go_on()
            yield self
            self.go_on()
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join(PATIENCE_S)

    def go_on(self, times: int = 2) -> None:
        """Wait until each client has been served so many times more."""
        until = {kind: count + times for kind, count in self._counts.items()}
        wait_for("the load", lambda: all(self._counts[kind] >= count for kind, count in until.items()))

    def seen(self) -> set[str]:
        """Return the names of the replicas that answer from now on."""
        self.replicas.clear()
        self.go_on(8)
        return set(self.replicas)

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection."""
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, over: http.client.HTTPConnection | None = None) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        connection = over or self.connect()
        body = b"x" if method == "POST" else None
        connection.request(method, self._path + path, body, {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if over is None:
            connection.close()
        return answer.status, text

    def _repeat(self, kind: str) -> None:
        kept = self.connect()
        ways: dict[str, Callable[[], None]] = {
            "kept": lambda: self._plain("kept", "GET", self._get, kept),
            "new": lambda: self._plain("new", "GET", self._get, None),
            "POST": lambda: self._plain("POST", "POST", self._post, kept),
            "stream": self._follow,
            "socket": self._talk,
        }
        while not self._is_over.wait(PAUSE_S):
            try:
                ways[kind]()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(Failure(kind, repr(error)))
                kept.close()
            self._counts[kind] += 1
        kept.close()

    def _plain(self, kind: str, method: str, path: str, over: http.client.HTTPConnection | None) -> None:
        status, body = self.ask(method, path, over)
        if status != 200:
            self.failures.append(Failure(kind, f"{status} {body}"))
        else:
            self.replicas.add(body.strip())

    def _follow(self) -> None:
        """Read a stream: the name of its replica, and numbered lines in their order."""
        connection = self.connect()
        connection.request("GET", self._path + self._stream, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        name, lines = answer.readline().decode().strip(), list[str]()
        try:
            lines = answer.read().decode().split()
        except http.client.IncompleteRead as error:
            lines = error.partial.decode().split()
        if answer.status != 200 or lines != [str(number) for number in range(LINES)]:
            self.failures.append(Failure("stream", f"{answer.status} {name} {lines}", name))
        connection.close()

    def _talk(self) -> None:
        """Switch to another protocol, and have some lines returned."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S) as sock:
            sock.sendall(
                f"GET {self._path}/socket HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            reader = sock.makefile("rb")
            head = list(itertools.takewhile(lambda line: line.strip(), iter(reader.readline, b"")))
            name = reader.readline().decode().strip()
            for number in range(LINES):
                sock.sendall(f"{number}\n".encode())
                if (line := reader.readline()) != f"{number}\n".encode():
                    self.failures.append(Failure("socket", f"{head[:1]} {line!r} for {number}", name))
                    return


def code_of(body: str) -> str:
    """Return the code of a problem."""
    problem: dict[str, Any] = json.loads(body)
    return str(problem["code"])
