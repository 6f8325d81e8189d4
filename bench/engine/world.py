"""The processes of a loaded server: hosts, server, and the ways to speak to both."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.engine.fleet import control_socket
from bench.processes import rest
from dstack.api import Client

ANSWER_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.05
SUBMITTERS = 8


@dataclass(frozen=True, slots=True)
class Team:
    """A user who has a project of his own."""

    project: str
    token: str


class World:
    """A server and its hosts."""

    def __init__(self, folder: Path, instances: int) -> None:
        self.instances = instances
        self.url = ""
        self.token = ""
        self._some_run = ""
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-m", "bench.engine.hosts", str(folder)]
        self._hosts = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._hosts.stdout is not None
        assert self._hosts.stdout.readline() == b"ready\n", "the hosts did not start"
        self._control = socket.socket(socket.AF_UNIX)
        self._control.connect(str(control_socket(folder)))
        self._answers = self._control.makefile("rb")

    @property
    def server_pid(self) -> int:
        """The server's process."""
        assert self._server is not None
        return self._server.pid

    @property
    def database(self) -> Path:
        """The file in which the server keeps its rows."""
        return self._folder / "server" / "server.db"

    def start_server(self) -> None:
        """Start a server, and wait until it answers."""
        arguments = ["bench.engine.server", str(self._folder), str(self.instances)]
        self._server, self.url, self.token = start_server(arguments, self._folder / "server.log")

    def kill_server(self) -> None:
        """Let the server die without a word."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def client(self, team: Team | None = None) -> Client:
        """The real client, of the server's admin or of a team."""
        project, token = (team.project, team.token) if team else ("main", self.token)
        return Client.from_config(project_name=project, server_url=self.url, user_token=token)

    def add_team(self, name: str) -> Team:
        """Add a user with a project of their own."""
        with closing(self.client()) as admin:
            admin.users.create(name)
            team = Team(project=name, token=admin.tokens.create("bench", user=name).value or "")
            admin.create_project(name)
        with closing(self.client(Team(name, self.token))) as owner:
            owner.members.set(name, "user")
        return team

    def tell_hosts(self, **order: int) -> dict[str, Any]:
        """Have the hosts do something, or say how they are."""
        self._control.sendall(json.dumps(order).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def wait_for(self, what: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
        """Until the hosts are as wished."""
        deadline = time.monotonic() + timeout_s
        said = 0.0
        while not what(state := self.tell_hosts()):
            if time.monotonic() - said > 5:
                said = time.monotonic()
                tell(f"  {state}")
            assert time.monotonic() < deadline, f"after {timeout_s:g} s the hosts still have: {state}"
            rest(LOOK_EVERY_S)

    def submit(self, count: int, script: str, team: Team | None = None) -> None:
        """Submit runs of one job each from some connections that stay open."""
        with ThreadPoolExecutor(SUBMITTERS) as submitters:
            share = [count // SUBMITTERS + (number < count % SUBMITTERS) for number in range(SUBMITTERS)]
            run_ids = list(submitters.map(lambda some: self._submit(some, script, team), share))
        if team is None:
            self._some_run = run_ids[0]

    def _submit(self, count: int, script: str, team: Team | None) -> str:
        project, token = (team.project, team.token) if team else ("main", self.token)
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=ANSWER_TIMEOUT_S)
        body = json.dumps({"configuration": {"type": "task", "commands": [script]}})
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        run_id = ""
        for _ in range(count):
            connection.request("POST", f"/api/projects/{project}/runs", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == http.HTTPStatus.CREATED, content
            run_id = json.loads(content)["id"]
        connection.close()
        return run_id

    def cursor(self) -> int:
        """The number of the newest event: each view tells it, and one run is cheap to look at."""
        client = self.client()
        run = client.runs.get(self._some_run)
        client.close()
        return run.view.cursor if run else 0

    def close(self) -> None:
        """End everything."""
        self._answers.close()
        self._control.close()
        assert self._hosts.stdout is not None
        self._hosts.stdout.close()
        for process in (self._server, self._hosts):
            if process is not None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def start_server(
    arguments: list[str], log: Path, env: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], str, str]:
    """Start a server and wait until it answers. Return its process, its address and its admin's token.

    Args:
        arguments: its module and what that takes; a file descriptor follows, to which it writes that it is ready.
        log: the file for its log.
        env: more variables.
    """
    ready, given = os.pipe()
    with open(ready, "rb") as messages, open(log, "ab") as file:
        command = [sys.executable, "-m", *arguments, str(given)]
        server = subprocess.Popen(command, stderr=file, pass_fds=(given,), env={**os.environ, **(env or {})})
        os.close(given)
        message = json.loads(messages.readline())
    return server, message["url"], message["token"]


def tell(line: str) -> None:
    """A word to people, who wait."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def temporary_world(instances: int) -> Iterator[World]:
    """A world with a server, in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="dstack-bench-") as folder:
        world = World(Path(folder), instances)
        try:
            world.start_server()
            yield world
        finally:
            world.close()
