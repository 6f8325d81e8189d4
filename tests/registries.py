"""A registry of one image that gives half of it, and the rest when it is told to: a pull that a test can look at."""

import gzip
import hashlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.engines import PrivateNetwork, packed
from tests.patience import PATIENCE_S

PORT = 5002
PAUSE_S = 0.5
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class SlowRegistry:
    """Serves on the loopback of an engine's network, in a process of its own."""

    def __init__(self, network: PrivateNetwork, layers: Sequence[dict[str, bytes]]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
        self.image = f"127.0.0.1:{PORT}/team/{self._folder.name.replace('_', '0')}:1"
        """Another name each time: no engine has it yet."""
        _write_image(self._folder, layers)
        serve = network.inside(sys.executable, "-m", "tests.registries", str(self._folder))
        self._process = subprocess.Popen(serve, cwd=Path(__file__).parent.parent)
        deadline = time.monotonic() + PATIENCE_S
        while not (self._folder / "ready").exists():
            assert time.monotonic() < deadline and self._process.poll() is None, "the registry does not start"
            time.sleep(0.02)

    def give_rest(self) -> None:
        """Let what waits go on, and wait no more."""
        (self._folder / "go").touch()

    def hold_back(self, *, all: bool = False) -> None:
        """Wait after half of each layer again, or before anything is said of the image."""
        (self._folder / "go").unlink(missing_ok=True)
        if all:
            (self._folder / "silent").touch()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)


def _write_image(folder: Path, layers: Sequence[dict[str, bytes]]) -> None:
    archives = [packed(layer) for layer in layers]
    ids = [f"sha256:{hashlib.sha256(archive).hexdigest()}" for archive in archives]
    rootfs = {"type": "layers", "diff_ids": ids}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _write_blob(folder, CONFIG, config),
        "layers": [_write_blob(folder, LAYER, gzip.compress(archive, 1)) for archive in archives],
    }
    (folder / "manifest").write_text(json.dumps(manifest))


def _write_blob(folder: Path, kind: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    return {"mediaType": kind, "size": len(content), "digest": f"sha256:{digest}"}


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_HEAD(self) -> None:
        self._answer(sends_body=False)

    def do_GET(self) -> None:
        self._answer(sends_body=True)

    def log_message(self, *args: Any) -> None:
        return

    def _answer(self, *, sends_body: bool) -> None:
        if self.path == "/v2/":
            self._begin("application/json", b"{}")
            return
        self._wait_while(lambda: (self.folder / "silent").exists())
        name = self.path.rpartition("/")[2].removeprefix("sha256:")
        is_manifest = "/manifests/" in self.path
        content = (self.folder / ("manifest" if is_manifest else name)).read_bytes()
        if not sends_body or is_manifest or len(content) < 10_000:
            self._begin(MANIFEST if is_manifest else "application/octet-stream", content, sends_body=sends_body)
            return
        half, part = len(content) // 2, len(content) // 8
        self._begin("application/octet-stream", content, sent_bytes=0)
        for begin in range(0, half, part):
            # Slowly enough for the engine to say how far it is.
            self._wait_while(lambda: not (self.folder / "go").exists(), PAUSE_S)
            self.wfile.write(content[begin : min(begin + part, half)])
        self._wait_while(lambda: not (self.folder / "go").exists())
        self.wfile.write(content[half:])

    def _begin(self, kind: str, content: bytes, *, sends_body: bool = True, sent_bytes: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}")
        self.end_headers()
        if sends_body:
            self.wfile.write(content[:sent_bytes])
            self.wfile.flush()

    def _wait_while(self, holds: Callable[[], bool], max_s: float = math.inf) -> None:
        until = time.monotonic() + max_s
        while holds() and time.monotonic() < until:
            time.sleep(0.02)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Engines that die in the middle of an answer are what this is for."""


if __name__ == "__main__":
    _Answer.folder = Path(sys.argv[1])
    server = _Server(("127.0.0.1", PORT), _Answer)
    (_Answer.folder / "ready").touch()
    server.serve_forever()
