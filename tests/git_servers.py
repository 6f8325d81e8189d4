"""Git remotes on this machine: behind a real sshd, and behind HTTP with a token."""

import base64
import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.patience import PATIENCE_S

ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}


def git(folder: Path, *arguments: str) -> str:
    """What Git says there, without anybody's own configuration."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=ENV, check=True, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return done.stdout.strip()


def make_remote(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A bare repository `folder/project.git` with one commit on `main`, and a checkout of it at `folder/work`."""
    bare, work = folder / "project.git", folder / "work"
    work.mkdir(parents=True)
    git(folder, "init", "-q", "--bare", "-b", "main", str(bare))
    git(work, "init", "-q", "-b", "main")
    git(work, "remote", "add", "origin", str(bare))
    commit(work, files)
    git(work, "push", "-q", "-u", "origin", "main")
    return work


def commit(work: Path, files: Mapping[str, bytes]) -> str:
    """Write files, commit everything; returns the commit's hash."""
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    git(work, "add", "-A")
    git(work, "commit", "-q", "--allow-empty", "-m", "a commit")
    return git(work, "rev-parse", "HEAD")


class _Handler(BaseHTTPRequestHandler):
    """Answers by `git http-backend`, a CGI program."""

    protocol_version = "HTTP/1.0"
    folder: Path
    token: str | None

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        if self.token is not None and self._password() != self.token:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        head, _, body = self._backend().partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _password(self) -> str | None:
        kind, _, sent = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(sent).decode().partition(":")[2] if kind == "Basic" else None

    def _backend(self) -> bytes:
        path, _, query = self.path.partition("?")
        size = int(self.headers.get("Content-Length") or 0)
        env = {
            **ENV,
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(size),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        command, sent = ["git", "http-backend"], self.rfile.read(size)
        return subprocess.run(command, env=env, input=sent, check=True, capture_output=True, timeout=PATIENCE_S).stdout


class GitOverHttp:
    """Serves the repositories below a folder; where there is a token, to those alone who have it."""

    def __init__(self, folder: Path, token: str | None = None) -> None:
        handler = type("Handler", (_Handler,), {"folder": folder, "token": token})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "GitOverHttp":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url_of(self, name: str) -> str:
        """The URL of a repository below the folder."""
        return f"http://127.0.0.1:{self._server.server_port}/{name}"


SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class GitOverSsh:
    """A real OpenSSH server for this user, which takes one key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, timeout=PATIENCE_S)
        self.private_key = folder / "user"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        lines = [
            f"Port {self._port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder / 'host'}",
            f"AuthorizedKeysFile {folder / 'user.pub'}",
            f"PidFile {folder / 'pid'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _forget(self) -> None:
        """Remove this server from the user's own file of known hosts: OpenSSH reads it whatever `HOME` is."""
        command = ["ssh-keygen", "-R", f"[127.0.0.1]:{self._port}"]
        subprocess.run(command, timeout=PATIENCE_S, capture_output=True)  # fails if there is no such file

    def __enter__(self) -> "GitOverSsh":
        assert SSHD is not None
        self._forget()  # another server may have had this port
        with contextlib.suppress(PermissionError):
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        log = self._folder / "log"
        command = [SSHD, "-D", "-e", "-f", str(self._folder / "sshd_config")]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stderr=output, stdin=subprocess.DEVNULL)
        over = threading.Event()
        for _ in range(PATIENCE_S * 20):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return self
            over.wait(0.05)
        raise AssertionError(f"sshd does not answer: {log.read_text()}")

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._forget()

    def url_of(self, repository: Path) -> str:
        """The URL of a repository on this machine."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self._port}{repository}"
