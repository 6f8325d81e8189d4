"""A service of processes for tests, and the changes that its user makes."""

import json
import socket
import sys
from contextlib import closing
from typing import Any

from dstack.api import Client, RunStatus
from tests.e2e.home import TOKEN, Home, wait_for
from tests.e2e.service_load import LINES, Load

LARGE_MACHINE = "import os; os.sched_getaffinity = lambda pid: set(range(8))"
"""Each replica gets a core of its own, and a rollout needs one more: a test machine may have two."""

APP = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, HELD = f"{os.environ['NAME']}-{os.getpid()}", sys.argv[1]

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in [NAME, *range(LINES)]:
                text = f"{line}\\n".encode()
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(text), text))
                time.sleep(0.02)
            self.wfile.write(b"0\\r\\n\\r\\n")
        elif self.path == "/socket":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\n")
            self.wfile.write(b"Upgrade: websocket\\r\\n\\r\\n")
            self.wfile.write(f"{NAME}\\n".encode())
            while line := self.rfile.readline():
                time.sleep(0.01)
                self.wfile.write(line)
            self.close_connection = True
        else:
            self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def answer(self):
        if self.path == "/held":
            open(f"{HELD}/{self.command}-{NAME}", "w").close()
            while not os.path.exists(f"{HELD}/open"):
                time.sleep(0.01)
        self.send_response(200)
        self.send_header("Content-Length", str(len(NAME)))
        self.end_headers()
        self.wfile.write(NAME.encode())

    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 100

while os.path.exists(f"{HELD}/closed"):
    time.sleep(0.01)

Server(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
""".replace("LINES", str(LINES))


class Served:
    """A service behind a server, and the changes that its user makes."""

    def __init__(self, home: Home, **fields: Any) -> None:
        self.home = home
        self.fields = {"type": "service", "name": "web", "retry": True, "replicas": 2, **fields}
        self.port = int(home.env["DSTACK_SERVER_URL"].rpartition(":")[2])
        self.most = 0
        """Replicas at one time."""

    def client(self) -> Client:
        return Client.from_config(self.home.project, f"http://127.0.0.1:{self.port}", TOKEN)

    def apply(self, **changes: Any) -> None:
        """Apply the configuration with these changes."""
        self.fields |= changes
        self.home.write("web.dstack.yml", json.dumps(self.fields))
        done = self.home.cli("apply", "-y", "-d", "-f", "web.dstack.yml")
        assert done.returncode == 0, done.stderr

    def settle(self) -> None:
        """Wait until exactly the asked replicas are there, all ready."""
        with closing(self.client()) as client:

            def is_settled() -> bool:
                run = client.runs.get("web")
                assert run is not None and run.view.service is not None
                alive = [job for job in run.view.jobs if not job.status.is_finished()]
                self.most = max(self.most, len(alive))
                assert run.status is not RunStatus.FAILED, run.detail
                asked = self.fields["replicas"]
                return (run.view.replicas_ready, len(alive), run.view.service.is_rolling) == (asked, asked, False)

            wait_for("the replicas", is_settled)

    def jobs(self) -> set[str]:
        """Return the ids of the living jobs."""
        with closing(self.client()) as client:
            run = client.runs.get("web")
            assert run is not None
            return {job.id for job in run.view.jobs if not job.status.is_finished()}

    def load(self, port: int | None = None, **options: Any) -> Load:
        return Load(port or self.port, f"/proxy/services/{self.home.project}/web", **options)


def processes(home: Home, database_url: str | None = None, **fields: Any) -> Served:
    """Return a service of processes, not applied yet."""
    home.write("large/sitecustomize.py", LARGE_MACHINE)
    home.env["PYTHONPATH"] = str(home.path / "large")
    home.serve(database_url)
    app = home.write("app.py", APP)
    (home.path / "held").mkdir()
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = f"exec {sys.executable} {app} {home.path}/held"
    return Served(home, port=port, commands=[command], env={"NAME": "one"}, **fields)
