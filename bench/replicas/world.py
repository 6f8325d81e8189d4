"""The processes: made-up hosts, and servers on one database."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bench.engine.fleet import control_socket
from bench.engine.world import ANSWER_TIMEOUT_S, LOOK_EVERY_S, start_server, tell
from bench.processes import rest
from dstack.domain.sharding import SHARDS

TOKEN = "the-token-of-all-replicas"
TOLD_EVERY_S = 5.0


class Replicas:
    """Servers on one database, and the hosts of all machines."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.servers: list[tuple[subprocess.Popen[bytes], str]] = []
        """Their processes and addresses."""
        self.started_s: list[float] = []
        self.database = psycopg.connect(url, autocommit=True)
        """For looks at the tables."""
        self._env = {"DSTACK_DATABASE_URL": url, "DSTACK_SERVER_ADMIN_TOKEN": TOKEN}
        self._hosts = subprocess.Popen(
            [sys.executable, "-m", "bench.engine.hosts", str(folder)], stdout=subprocess.PIPE
        )
        assert self._hosts.stdout is not None
        assert self._hosts.stdout.readline() == b"ready\n", "the hosts did not start"
        self._control = socket.socket(socket.AF_UNIX)
        self._control.connect(str(control_socket(folder)))
        self._answers = self._control.makefile("rb")

    def start(self) -> None:
        """Start one more server, and wait until it answers."""
        number = len(self.servers)
        self.started_s.append(time.monotonic())
        arguments = ["bench.replicas.server", str(self.folder), str(number)]
        process, url, _ = start_server(arguments, self.log(number), self._env)
        self.servers.append((process, url))

    def log(self, number: int) -> Path:
        """Return the log of a server."""
        return self.folder / f"log-{number}"

    def trace(self, number: int, kind: str) -> list[dict[str, Any]]:
        """Return what a server has noted of one kind."""
        lines = (self.folder / f"trace-{number}").read_text().splitlines()
        return [note for line in lines if (note := json.loads(line))["kind"] == kind]

    def tell_hosts(self, **order: int) -> dict[str, Any]:
        """Have the hosts do something, or report."""
        self._control.sendall(json.dumps(order).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def wait_for(self, what: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
        """Wait until the hosts are as wished."""
        self._wait(lambda: self.tell_hosts(), what, timeout_s)

    def share_all(self, timeout_s: float) -> None:
        """Wait until each server owns its part of the shards."""
        servers = len(self.servers)
        self._wait(self.shards, lambda owned: _is_spread(owned, servers), timeout_s)

    def _wait(
        self, look: Callable[[], dict[Any, Any]], what: Callable[[dict[Any, Any]], bool], timeout_s: float
    ) -> None:
        deadline = time.monotonic() + timeout_s
        told_s = 0.0
        while not what(found := look()):
            assert time.monotonic() < deadline, f"after {timeout_s:g} s there is still: {found}"
            if time.monotonic() - told_s > TOLD_EVERY_S:
                told_s = time.monotonic()
                tell(f"  {str(found)[:100]}")
            rest(LOOK_EVERY_S)

    def shards(self) -> dict[int, tuple[str | None, int]]:
        """Return the owner of each shard, with its epoch."""
        rows = self.database.execute("SELECT number, replica_id, epoch FROM shards").fetchall()
        return {number: (owner, epoch) for number, owner, epoch in rows}

    def count(self, query: str) -> int:
        """Return the number that a query answers."""
        row = self.database.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def connection(self, number: int) -> http.client.HTTPConnection:
        """Return a connection to a server."""
        return http.client.HTTPConnection(urlsplit(self.servers[number][1]).netloc, timeout=ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End everything."""
        self._answers.close()
        self._control.close()
        self.database.close()
        for process in (*(process for process, _ in self.servers), self._hosts):
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert self._hosts.stdout is not None
        self._hosts.stdout.close()


def _is_spread(owned: dict[int, tuple[str | None, int]], servers: int) -> bool:
    """Return whether each shard has an owner, and each server its part."""
    counts = Counter(owner for owner, _ in owned.values())
    return None not in counts and len(counts) == servers and max(counts.values()) <= -(-SHARDS // servers)
