"""Services under load while their replicas, servers and data planes are replaced or killed: no request is lost."""

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from dstack.api import Client, RunStatus
from tests.e2e.home import TOKEN, Home, wait_for
from tests.e2e.service_load import LINES, Load, code_of
from tests.engines import SHELL_IMAGE, DockerEngine

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


def processes(home: Home, database_url: str | None = None) -> Served:
    """A service of two processes."""
    home.write("large/sitecustomize.py", LARGE_MACHINE)
    home.env["PYTHONPATH"] = str(home.path / "large")
    home.serve(database_url)
    app = home.write("app.py", APP)
    (home.path / "held").mkdir()
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = f"exec {sys.executable} {app} {home.path}/held"
    served = Served(home, port=port, commands=[command], env={"NAME": "one"})
    served.apply()
    served.settle()
    return served


def names(load: Load) -> set[str]:
    """Return the names of the deployments that answer."""
    return {replica.partition("-")[0] for replica in load.seen()}


@pytest.mark.server("own")
def test_no_request_fails_while_processes_are_replaced_scaled_and_their_server_restarts(home: Home) -> None:
    served = processes(home)
    with served.load().running() as load:
        served.apply(env={"NAME": "two"})
        served.settle()
        assert (load.failures, names(load)) == ([], {"two"})
        assert served.most <= 3, "never more than one above the asked number"
        for count in (4, 1):
            served.apply(replicas=count)
            served.settle()
            wait_for("the replicas to answer", lambda count=count: len(load.seen()) == count)  # type: ignore[misc]
            assert load.failures == []
        pid = home.server_pid()
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        wait_for("the end of the server", lambda: home.server_pid() is None)
        load.go_on()
        home._server, _ = home.start_server(served.port)
        load.go_on()
        home.kill_server()
        load.go_on()
    assert load.failures == []


@pytest.mark.server("own")
def test_killed_replica_and_killed_data_plane_cost_only_what_they_held(home: Home) -> None:
    served = processes(home)
    held = home.path / "held"
    with served.load().running() as load:
        answers: dict[str, list[tuple[int, str]]] = {"GET": [], "POST": []}

        def ask(method: str) -> None:
            answers[method].append(load.ask(method, "/held"))

        asking = [threading.Thread(target=ask, args=(method,)) for method in ("GET", "POST") for _ in range(8)]
        for thread in asking:
            thread.start()
        wait_for("all of them to reach a replica", lambda: len(load.seen()) == 2 and len(list(held.iterdir())) == 4)
        killed = next(held.glob("POST-*")).name.removeprefix("POST-")
        os.kill(int(killed.partition("-")[2]), signal.SIGKILL)
        wait_for("the failed ones", lambda: len(answers["POST"]) > 0)
        (held / "open").touch()
        for thread in asking:
            thread.join()
        assert {status for status, _ in answers["GET"]} == {200}, "they are repeated at the other replica"
        failed = [body for status, body in answers["POST"] if status != 200]
        assert failed and {code_of(body) for body in failed} == {"replica_failed"}
        served.settle()
        wait_for("the next replica", lambda: len(load.seen()) == 2)
    for failure in load.failures:
        assert failure.replica == killed or (failure.kind == "POST" and failure.detail.startswith("502 ")), failure

    jobs, pids, before = served.jobs(), {name for name in load.replicas}, home.data_planes()
    began_s = time.monotonic()
    os.kill(before[0], signal.SIGKILL)

    def answers_again() -> bool:
        try:
            return load.ask("GET", "/")[0] == 200
        except OSError:
            return False

    wait_for("the service", answers_again)
    print(f"The next data plane answers after {time.monotonic() - began_s:.2f} s")
    wait_for("another data plane", lambda: home.data_planes() not in ([], before))
    with served.load().running() as after:
        assert (after.seen(), served.jobs()) == (pids, jobs)
    assert after.failures == []


@pytest.mark.parametrize("is_whole", [False, True], ids=["server", "server and data plane"])
def test_end_of_one_of_two_servers_fails_nothing_through_the_other(
    home: Home, postgres_url: str, is_whole: bool
) -> None:
    served = processes(home, postgres_url)
    first, data_planes = home.server_pid(), home.data_planes()
    assert first is not None
    process, url = home.start_server()
    served.port = int(url.rpartition(":")[2])
    wait_for("its data plane", lambda: len(home.data_planes()) == 2)
    with served.load().running() as load:
        home.env["DSTACK_SERVER_URL"] = url
        served.apply(env={"NAME": "two"})
        for pid in [first, *(data_planes if is_whole else [])]:
            os.kill(pid, signal.SIGKILL)
        served.settle()
        assert names(load) == {"two"}
    assert load.failures == []
    process.send_signal(signal.SIGTERM)
    process.wait()


CONTAINER = r"""mkdir -p /tmp/www/cgi-bin
cat >/tmp/www/cgi-bin/answer <<END
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'; echo $NAME-$(hostname)
END
cp /tmp/www/cgi-bin/answer /tmp/www/cgi-bin/stream
echo 'n=0; while [ $n -lt LINES ]; do echo $n; n=$((n+1)); sleep 0.05; done' >>/tmp/www/cgi-bin/stream
chmod +x /tmp/www/cgi-bin/answer /tmp/www/cgi-bin/stream
exec httpd -f -h /tmp/www -p 0.0.0.0:$PORT
""".replace("LINES", str(LINES))


@pytest.mark.deep
@pytest.mark.server("own", engine="engine")
def test_no_request_fails_while_containers_are_replaced_and_scaled_and_a_killed_one_is_replaced(
    home: Home, engine: DockerEngine
) -> None:
    home.write("large/sitecustomize.py", LARGE_MACHINE)
    home.env["PYTHONPATH"] = str(home.path / "large")
    home.serve()
    served = Served(home, image=SHELL_IMAGE, port=8000, commands=[CONTAINER], env={"NAME": "one"})
    try:
        served.apply()
        served.settle()
        with served.load(
            has_socket=False, get="/cgi-bin/answer", post="/cgi-bin/answer", stream="/cgi-bin/stream"
        ).running() as load:
            served.apply(env={"NAME": "two"})
            served.settle()
            assert (load.failures, names(load)) == ([], {"two"})
            for count in (4, 1, 2):
                served.apply(replicas=count)
                served.settle()
                wait_for("the replicas to answer", lambda count=count: len(load.seen()) == count)  # type: ignore[misc]
                assert load.failures == []
            before = load.seen()
            engine.docker("kill", engine.containers()[0])
            wait_for("the next replica", lambda: load.seen() - before != set())
            served.settle()
            wait_for("both replicas", lambda: len(load.seen()) == 2)
    finally:
        home.cli("stop", "-x", "-y", "web")
        wait_for("the end of all containers", lambda: engine.containers() == [])
    for failure in load.failures:
        assert failure.kind == "stream" or (failure.kind == "POST" and failure.detail.startswith("502 ")), failure
