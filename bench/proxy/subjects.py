"""The proxies that are measured, each as a process in front of the same replica."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from msgspec import json

from bench.processes import cpu_s, end, family, rest
from dstack.protocol.proxy import Changes, Replica, Service, Snapshot, Tcp

START_TIMEOUT_S = 30.0
FIRST_PORT = 17000

NGINX = """
worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/{name}.body;
  proxy_temp_path {folder}/{name}.proxy; fastcgi_temp_path {folder}/{name}.fastcgi;
  uwsgi_temp_path {folder}/{name}.uwsgi; scgi_temp_path {folder}/{name}.scgi;
  {body}
}}
"""
STATIC = (
    'server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 "hello world, a small answer\\n"; }} }}'
)
PROXY = """
upstream replica {{ server 127.0.0.1:{replica}; keepalive 256; keepalive_requests 100000000; }}
upstream streams {{ server 127.0.0.1:{streams}; keepalive 256; }}
proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_set_header Host $host;
proxy_set_header X-Forwarded-For $remote_addr;
server {{
  listen 127.0.0.1:{port} backlog=1024;
  location / {{ proxy_pass http://replica/; }}
  location /stream {{ proxy_pass http://streams/; }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
http://:{port} {{
  bind 127.0.0.1
  handle /stream* {{
    reverse_proxy 127.0.0.1:{streams} {{
      flush_interval -1
    }}
  }}
  handle {{
    reverse_proxy 127.0.0.1:{replica}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """One proxy that runs, or the replica itself."""

    name: str
    pid: int
    url: str
    stream_url: str

    def cpu_s(self) -> float:
        """Return the processor seconds that it has used so far."""
        return cpu_s(family(self.pid))


class Bench:
    """The replica and the proxies."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._next_port = FIRST_PORT
        self.replica = self.port()
        self.streams = self.port()
        self._nginx("replica", STATIC.format(port=self.replica), self.replica)
        self._start("streams", [sys.executable, "-m", "bench.proxy.replica", str(self.streams)], self.streams)

    def port(self) -> int:
        """Return a port that no other program listens on."""
        while True:
            self._next_port += 1
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self._next_port)):
                    return self._next_port

    def nginx(self) -> Subject:
        """Start nginx, tuned."""
        port = self.port()
        body = PROXY.format(port=port, replica=self.replica, streams=self.streams)
        return self._subject("nginx", self._nginx("front", body, port), port)

    def caddy(self) -> Subject:
        """Start Caddy."""
        port = self.port()
        path = self.folder / "Caddyfile"
        path.write_text(CADDY.format(port=port, replica=self.replica, streams=self.streams))
        pid = self._start("caddy", ["caddy", "run", "--adapter", "caddyfile", "--config", str(path)], port).pid
        return self._subject("Caddy", pid, port)

    def peer(self) -> Subject:
        """Start FastAPI with httpx."""
        port = self.port()
        command = [sys.executable, "-m", "bench.proxy.peer", str(port), str(self.replica), str(self.streams)]
        return self._subject("FastAPI + httpx", self._start("peer", command, port).pid, port)

    def ours(self, loop: str) -> "Plane":
        """Start a data plane on one of the event loops."""
        port = self.port()
        log = self.folder / f"{loop}-access.log"
        command = [sys.executable, "-m", "bench.proxy.plane", str(port), str(log)]
        if loop == "uvloop":
            command.append(loop)
        process = self._start(loop, command, port)
        prefix = f"http://127.0.0.1:{port}/proxy/services/main"
        subject = Subject(f"ours, {loop}", process.pid, f"{prefix}/web/x", f"{prefix}/streams/x")
        assert process.stdin is not None
        assert process.stdout is not None
        plane = Plane(subject, process.stdin, process.stdout)
        services = (service("web", self.replica), service("streams", self.streams))
        plane.send(Snapshot(1, services, {}))
        return plane

    def another_replica(self) -> int:
        """Start a second replica; return its port."""
        port = self.port()
        self._nginx("other", STATIC.format(port=port), port)
        return port

    def _subject(self, name: str, pid: int, port: int) -> Subject:
        return Subject(name, pid, f"http://127.0.0.1:{port}/x", f"http://127.0.0.1:{port}/stream")

    def _nginx(self, name: str, body: str, port: int) -> int:
        path = self.folder / f"{name}.conf"
        path.write_text(NGINX.format(folder=self.folder, name=name, body=body))
        return self._start(name, ["nginx", "-e", f"{self.folder}/{name}.log", "-c", str(path)], port).pid

    def _start(self, name: str, command: list[str], port: int) -> "subprocess.Popen[bytes]":
        return self._stack.enter_context(_started(command, port, self.folder / f"{name}.out"))


@dataclass(frozen=True, slots=True)
class Plane:
    """A data plane, and the way to its routes."""

    subject: Subject
    _stdin: IO[bytes]
    _stdout: IO[bytes]

    def send(self, message: Snapshot | Changes) -> None:
        """Give it routes, and wait until it has them."""
        self._stdin.write(json.encode(message) + b"\n")
        self._stdin.flush()
        assert self._stdout.readline()


def service(name: str, *ports: int) -> Service:
    """Return a service with a replica on each port."""
    replicas = tuple(Replica(f"{name}-{port}", place, Tcp("127.0.0.1", port)) for place, port in enumerate(ports))
    return Service(id=name, project="main", name=name, auth=False, replicas=replicas)


@contextmanager
def _started(command: list[str], port: int, output: Path) -> "Iterator[subprocess.Popen[bytes]]":
    environ = os.environ | {"XDG_CONFIG_HOME": str(output.parent), "XDG_DATA_HOME": str(output.parent)}  # for Caddy
    with (
        output.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environ) as process,
    ):
        try:
            _wait_for(port, process, output)
            yield process
        finally:
            end(process.pid)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        with socket.socket() as sock:
            if not sock.connect_ex(("127.0.0.1", port)):
                return
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"{process.args!r} did not start: {output.read_text()[-2000:]}")
        rest(0.02)


STARTERS: dict[str, tuple[str, Callable[[Bench], Subject]]] = {
    "nginx": ("nginx", Bench.nginx),
    "Caddy": ("caddy", Bench.caddy),
    "FastAPI + httpx": (sys.executable, Bench.peer),
    "ours, asyncio": (sys.executable, lambda bench: bench.ours("asyncio").subject),
    "ours, uvloop": (sys.executable, lambda bench: bench.ours("uvloop").subject),
}
"""The program that each needs, and the way to start it."""


def missing(program: str) -> bool:
    """Return whether this machine lacks a program."""
    return shutil.which(program) is None
