"""`dstack` commands in processes forked from one that has imported everything: a start takes 10 ms instead of 600."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

from dstack.cli.main import COMMANDS, main

_USED = ["cli.clients", "api._client", "api._backends", "api._secrets", "spec.parse", "kit.git"]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "httpcore",
        "asyncssh",
        "cronsim",
        *(f"dstack.{name}" for name in [*(f"cli.commands.{one}" for one in COMMANDS), *_USED]),
    ]
)


def start_server() -> None:
    """Start the process to fork from, in the environment of now: before a test has changed it."""
    forkserver.ensure_running()


def run(
    args: Sequence[str], *, env: dict[str, str], cwd: Path, input: str, timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Run `dstack ARGS` to its end, as `subprocess.run` does with `python -m dstack.cli ARGS`."""
    with tempfile.TemporaryDirectory(prefix="cli-") as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(input)
        process = _FORKS.Process(target=_live, args=(args, env, cwd, streams))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["dstack", *args], timeout_s, *(one.read_bytes() for one in streams[1:]))
        out, err = (one.read_bytes().decode() for one in streams[1:])
        return subprocess.CompletedProcess(["dstack", *args], process.exitcode, out, err)


def _live(args: Sequence[str], env: dict[str, str], cwd: Path, streams: Sequence[Path]) -> None:
    """Be the command."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    with streams[0].open() as sys.stdin, streams[1].open("w") as sys.stdout, streams[2].open("w", 1) as sys.stderr:
        for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
            os.dup2(stream.fileno(), number)
        code = main(args)
    sys.exit(code)
