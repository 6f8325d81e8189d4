"""What it takes to begin: the command, the Python API, a server."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench.figures import Figure, Goal, medians_ms, timed

ROUNDS = 21
SERVER_ROUNDS = 7
ANSWER_TIMEOUT_S = 30.0

BARE = (sys.executable, "-c", "pass")
DSTACK = str(Path(sys.executable).with_name("dstack"))
IMPORT_PACKAGE = (sys.executable, "-c", "import dstack.api")
IMPORT_API = (sys.executable, "-c", "from dstack.api import Client, Task, Resources")


def measure_help() -> list[Figure]:
    """`dstack --help`."""
    return [compared("help", (DSTACK, "--help"), Goal(5, "x"))]


def measure_imports() -> list[Figure]:
    """The package alone, and with the names that most programs use."""
    return [
        compared("import_package", IMPORT_PACKAGE, Goal(8, "x")),
        compared("import_api", IMPORT_API, Goal(10, "x")),
    ]


def measure_server_start() -> list[Figure]:
    """From the start of a server's process, with no data yet, to its first answer."""
    value, baseline = medians_ms(timed_server_start, timed(partial(run, BARE)), SERVER_ROUNDS)
    return [Figure("server_start", value, "ms", Goal(1000, "ms"), baseline)]


def timed_server_start() -> float:
    """Start a server, ask it whether it is there, and end it. Returns the seconds until the answer."""
    ready, given = os.pipe()
    with tempfile.TemporaryDirectory() as folder, open(ready) as messages:
        arguments = ("--embedded", "--data-dir", f"{folder}/server", "--ready-fd", str(given))

        def first_answer() -> subprocess.Popen[bytes]:
            server = subprocess.Popen(
                [sys.executable, "-P", "-m", "dstack.server", *arguments],
                stderr=subprocess.DEVNULL,
                pass_fds=(given,),
            )
            os.close(given)
            ask_health(json.loads(messages.readline())["url"])
            return server

        started: list[subprocess.Popen[bytes]] = []
        seconds = timed(lambda: started.append(first_answer()))()
        started[0].terminate()
        started[0].wait(ANSWER_TIMEOUT_S)
    return seconds


def ask_health(url: str) -> None:
    """Have the server at `url` say that it is there."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_TIMEOUT_S)
    connection.request("GET", "/api/health")
    answer = connection.getresponse()
    assert answer.status == http.HTTPStatus.OK, answer.read()
    connection.close()


def run(command: tuple[str, ...]) -> None:
    """Run a program to its end, unseen; what it imports is compiled at its first run, as an installer does it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    silent = subprocess.DEVNULL
    subprocess.run(command, check=True, env=environment, stdin=silent, stdout=silent, stderr=silent)


def compared(name: str, command: tuple[str, ...], goal: Goal) -> Figure:
    """Measure a command by turns with a bare Python."""
    value, baseline = medians_ms(timed(partial(run, command)), timed(partial(run, BARE)), ROUNDS)
    return Figure(name, value, "ms", goal, baseline)
