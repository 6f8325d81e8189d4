"""An S3-compatible storage for tests, in memory, in a process of its own."""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading

import httpx

from tests.patience import PATIENCE_S


class S3Server:
    """Listens on the loopback, and takes any credentials."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.credentials = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Serve; returns once it answers."""
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        # Nothing of the test that happens to be the first; small pages, so that listings have several.
        env = {"PATH": os.environ["PATH"], "MOTO_S3_DEFAULT_MAX_KEYS": "7"}
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        over = threading.Event()
        for _ in range(PATIENCE_S * 10):
            try:
                httpx.get(self.url, trust_env=False)
                return
            except httpx.TransportError:
                over.wait(0.1)
        raise AssertionError(f"no storage answers at {self.url}")

    def stop(self) -> None:
        """End it, and all that it kept."""
        self._process.kill()
        self._process.wait()

    def create(self) -> str:
        """A new bucket."""
        name = f"test-{next(self._numbers)}"
        httpx.put(f"{self.url}/{name}", trust_env=False).raise_for_status()
        return name

    def settings(self) -> dict[str, str]:
        """What a server needs in its environment to keep logs and uploads in a new bucket."""
        about = {"DSTACK_S3_BUCKET": self.create(), "DSTACK_S3_PREFIX": "team", "DSTACK_S3_ENDPOINT_URL": self.url}
        return about | self.credentials


class Road:
    """The way to a storage, which can be closed."""

    def __init__(self, to_url: str) -> None:
        self._to = int(to_url.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = True
        self._under_way: list[socket.socket] = []
        self._carriers: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Break what is under way, and let nothing through."""
        self._open = False
        for one in self._under_way:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Let everything through again."""
        self._open = True

    def end(self) -> None:
        """There is no such way any more."""
        self.close()
        self._listener.close()
        for carrier in self._carriers:
            carrier.join()
        for one in self._under_way:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                if not self._open:
                    here.close()
                    continue
                there = socket.create_connection(("127.0.0.1", self._to))
                self._under_way += [here, there]
                for pair in ((here, there), (there, here)):
                    carrier = threading.Thread(target=self._carry, args=pair, daemon=True)
                    self._carriers.append(carrier)
                    carrier.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
