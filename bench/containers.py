"""What containers take, beside Docker and OpenSSH: to the first line of one, into one, and through one."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

import pytest
from tests.engines import SHELL_IMAGE, DockerEngine

from bench.figures import Figure, Goal, medians_ms, timed
from dstack.api import Client, Task

ROUNDS = 12
SSH_ROUNDS = 25
FORWARD_ROUNDS = 5
FORWARDED_BYTES = 200 << 20
NAME = "way-in"
PATIENCE_S = 30.0
SSHD = "/usr/sbin/sshd"


class NoEngineError(Exception):
    """This machine starts no container engine; the text is the reason."""


@contextmanager
def started_engine() -> Iterator[DockerEngine]:
    """A container engine of its own, which agents that start from now on use.

    Raises:
        NoEngineError: a program is missing, or the engine does not start.
    """
    with ExitStack() as stack:
        try:
            engine = DockerEngine()
            stack.callback(engine.stop)
            engine.start()
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            raise NoEngineError(" ".join(str(error).split())) from error
        os.environ["DOCKER_HOST"] = engine.host
        yield engine


def measure_docker_submit_to_first_line(client: Client, engine: DockerEngine) -> list[Figure]:
    """From `submit` to the first line of a container in the client's hands; `docker run` beside it."""
    task = Task(image=SHELL_IMAGE, commands=["echo hello"])
    command = ["docker", "-H", engine.host, "run", "--rm", SHELL_IMAGE, "sh", "-c", "echo hello"]

    def first_line() -> float:
        started = time.perf_counter()
        run = client.runs.submit(task)
        log = run.logs()
        line = next(log)
        seconds = time.perf_counter() - started
        assert line + b"".join(log) == b"hello\n"
        _until("the end of all containers", lambda: not engine.containers())
        return seconds

    def docker_run() -> float:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"hello\n"
            seconds = time.perf_counter() - started
        return seconds

    value, baseline = medians_ms(first_line, docker_run, ROUNDS)
    return [Figure("docker_submit_to_first_line", value, "ms", Goal(1.5, "x"), baseline)]


def measure_ssh(client: Client, engine: DockerEngine) -> list[Figure]:
    """`ssh RUN true` on a connection that is open; `docker exec CONTAINER true` beside it."""
    with _attached(client) as ssh:
        (container,) = engine.containers()
        control = ("-o", "ControlMaster=auto", "-o", f"ControlPath={ssh.folder}/control", "-o", "ControlPersist=60")
        ssh.run(*control, NAME, "true")
        exec_true = ["docker", "-H", engine.host, "exec", container, "true"]
        value, baseline = medians_ms(
            timed(lambda: ssh.run(*control, NAME, "true")),
            timed(lambda: subprocess.run(exec_true, check=True)),
            SSH_ROUNDS,
        )
        ssh.run(*control, "-O", "exit", NAME)
    return [Figure("ssh_true", value, "ms", Goal(1.5, "x"), baseline)]


def measure_forward(client: Client) -> list[Figure]:
    """Bytes out of a container through `ssh -L`; out of a process of this host, through OpenSSH's server, beside it."""
    with _attached(client) as ours, _served_by_openssh() as theirs:
        inside = _free_port()
        serve = f"mkdir /tmp/www && head -c {FORWARDED_BYTES} /dev/zero > /tmp/www/file"
        ours.run(NAME, f"{serve} && (httpd -p 127.0.0.1:{inside} -h /tmp/www) >/dev/null 2>&1")
        with ours.forward(inside, NAME) as here, theirs.forward(theirs.port, "127.0.0.1") as there:
            pairs = [(_download_mb_per_s(here), _download_mb_per_s(there)) for _ in range(FORWARD_ROUNDS + 1)][1:]
    value, baseline = (median(rates) for rates in zip(*pairs, strict=True))
    return [Figure("forward_throughput", value, "MB/s", Goal(0.6, "x", at_least=True), baseline)]


class _Ssh:
    """OpenSSH's client with a configuration."""

    def __init__(self, config: Path, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        """Where the same bytes are served that a container serves."""
        self._config = config

    def run(self, *args: str) -> None:
        subprocess.run(["ssh", "-F", str(self._config), *args], check=True, stderr=subprocess.DEVNULL)

    @contextmanager
    def forward(self, port: int, host: str) -> Iterator[int]:
        """A local port that leads there."""
        here = _free_port()
        process = subprocess.Popen(["ssh", "-F", str(self._config), "-N", "-L", f"{here}:127.0.0.1:{port}", host])
        try:
            _until("the forward", lambda: _answers(here))
            yield here
        finally:
            process.kill()
            process.wait()


@contextmanager
def _attached(client: Client) -> Iterator[_Ssh]:
    """A job in a container that waits, and the way into it."""
    task = Task(image=SHELL_IMAGE, commands=["while :; do sleep 3600; done"])
    run = client.runs.submit(task, run_name=NAME)
    folder = Path(tempfile.mkdtemp(prefix="dstack-bench-ssh-"))
    try:
        assert run.attach()
        yield _Ssh(Path.home() / ".dstack" / "ssh" / "config", folder)
    finally:
        run.stop(abort=True)
        for _ in run.changes():
            pass
        shutil.rmtree(folder)


@contextmanager
def _served_by_openssh() -> Iterator[_Ssh]:
    """An sshd of this host, a client of it, and the bytes behind it, with the cipher that ours prefers."""
    folder = Path(tempfile.mkdtemp(prefix="dstack-bench-sshd-"))
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port, served = _free_port(), _free_port()
    options = ("UsePAM=no", "StrictModes=no", f"AuthorizedKeysFile={folder}/key.pub", f"PidFile={folder}/pid")
    (folder / "www").mkdir()
    with open(folder / "www" / "file", "wb") as file:
        file.truncate(FORWARDED_BYTES)
    server = [SSHD, "-D", "-f", "/dev/null", "-h", f"{folder}/host", "-p", str(port), "-o", "ListenAddress=127.0.0.1"]
    processes = [
        subprocess.Popen([*server, *(word for option in options for word in ("-o", option))]),
        subprocess.Popen(["busybox", "httpd", "-f", "-p", f"127.0.0.1:{served}", "-h", f"{folder}/www"]),
    ]
    config = folder / "config"
    config.write_text(
        f"Host *\n  Port {port}\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile {folder}/known\n  LogLevel ERROR\n  Ciphers aes128-gcm@openssh.com\n"
    )
    try:
        _until("OpenSSH's server", lambda: _is_open(port))
        yield _Ssh(config, folder, served)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def _download_mb_per_s(port: int) -> float:
    started = time.perf_counter()
    got = 0
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/file", timeout=PATIENCE_S) as response:
        while chunk := response.read(1 << 20):
            got += len(chunk)
    assert got == FORWARDED_BYTES
    return got / 1e6 / (time.perf_counter() - started)


def _answers(port: int) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/file", method="HEAD")
    with suppress(OSError), urllib.request.urlopen(request, timeout=5):
        return True
    return False


def _is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s in vain for {what}")
        time.sleep(0.01)
