"""Services behind the address of their server, and the deaths of all that stands between a client and a replica."""

import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from dstack.api import Client
from tests.e2e.home import TOKEN, Home, wait_for

pytestmark = pytest.mark.server("own")

APP = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with open(sys.argv[2]) as gate:
                for line in gate:  # one chunk for each line that the test writes
                    self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(line), line.encode()))
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        body = f"{self.path} {os.getpid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"""


class Served:
    """A service of one process, behind its server."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.gate = home.path / "gate"
        os.mkfifo(self.gate)
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        app = home.write("app.py", APP)
        home.write(
            "web.dstack.yml",
            f"type: service\nname: web\nport: {port}\ncommands: [exec python3 {app} {port} {self.gate}]\n",
        )
        about = home.serve()
        self.port = int(about["DSTACK_SERVER_URL"].rpartition(":")[2])
        done = home.cli("apply", "-y", "-d", "-f", "web.dstack.yml")
        assert done.returncode == 0, done.stderr
        wait_for("the service", lambda: self.ask("/")[0] == 200)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, path: str, token: str = TOKEN, over: http.client.HTTPConnection | None = None) -> tuple[int, str]:
        connection = over or self.connect()
        where = path if path.startswith("/api/") else f"/proxy/services/main/web{path}"
        connection.request("GET", where, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read().decode()
        if over is None:
            connection.close()
        return answer.status, body

    def _try(self, path: str, over: http.client.HTTPConnection | None = None) -> tuple[int, str]:
        try:
            return self.ask(path, over=over)
        except OSError as error:
            return 0, str(error)

    @property
    def status(self) -> int:
        """That of an answer; 0 without one."""
        return self._try("/")[0]

    @contextmanager
    def under_load(self) -> Iterator[list[object]]:
        """Ask again and again from a few connections, some kept and some new; yields what has failed."""
        failed: list[object] = []
        over = threading.Event()
        asked = threading.Semaphore(0)

        def load(keeps: bool) -> None:
            kept = self.connect() if keeps else None
            while not over.is_set():
                status, body = self._try("/load", kept)
                if status != 200:
                    failed.append((status, body))
                asked.release()
            if kept is not None:
                kept.close()

        threads = [threading.Thread(target=load, args=(keeps,)) for keeps in (True, True, False, False)]
        for thread in threads:
            thread.start()
        _take(asked, 20)
        yield failed
        _take(asked, 20)
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def served(home: Home) -> Served:
    return Served(home)


def test_service_shares_connections_and_address_with_the_api(served: Served) -> None:
    connection = served.connect()
    for path in ("/a?b=c", "/api/health", "/d", "/e", "/api/health", "/f"):
        status, body = served.ask(path, over=connection)
        assert status == 200
        first = connection.sock
        assert path in body or path.startswith("/api/")
    assert connection.sock is first, "no hand-over may close the connection"
    connection.close()


def test_kills_of_server_and_data_plane_cut_no_stream_of_others_and_lose_no_job(served: Served) -> None:
    replica = served.ask("/")[1].split()[1]
    stream = served.connect()
    stream.request("GET", "/proxy/services/main/web/slow", headers={"Authorization": f"Bearer {TOKEN}"})
    with open(served.gate, "w", buffering=1) as gate:
        gate.write("one\n")
        answer = stream.getresponse()
        assert answer.readline() == b"one\n"
        with served.under_load() as failed:
            served.home.kill_server()
            assert served.ask("/api/health")[0] == 200, "the next server has the same address"
        assert failed == []
        gate.write("two\n")
        assert answer.readline() == b"two\n"
    assert answer.read() == b""
    stream.close()
    (former,) = served.home.data_planes()
    os.kill(former, signal.SIGKILL)
    wait_for("the next data plane", lambda: served.home.data_planes() not in ([], [former]))
    wait_for("its answer", lambda: served.status == 200)
    assert served.ask("/")[1].split()[1] == replica, "the job has not noticed"


def test_revoked_token_and_strangers_are_refused(served: Served) -> None:
    assert served.ask("/", token="wrong")[0] == 401
    client = Client.from_config("main", f"http://127.0.0.1:{served.port}", TOKEN)
    client.users.create("ben")
    theirs = client.tokens.create("mine", user="ben").value or ""
    assert served.ask("/", token=theirs)[0] == 401, "it is for no project"
    client.members.set("ben", "user")
    wait_for("the routes to know the member", lambda: served.ask("/", token=theirs)[0] == 200)
    client.tokens.delete("mine", user="ben")
    wait_for("the end of the token", lambda: served.ask("/", token=theirs)[0] == 401)
    client.close()


def test_answers_for_unknown_places_name_what_there_is(served: Served) -> None:
    connection = served.connect()
    connection.request("GET", "/proxy/services/main/wep/", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    problem = json.loads(answer.read())
    assert (answer.status, problem["hint"]) == (404, "Services of this project: web")
    connection.close()


def _take(asked: threading.Semaphore, times: int) -> None:
    for _ in range(times):
        asked.acquire()
