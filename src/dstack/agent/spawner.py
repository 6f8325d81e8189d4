"""The process that forks supervisors: itself forked from the agent before that has a loop, threads or much memory.

A job so costs a fork of a small process (1-2 ms) and not the start of an interpreter (30 ms). One that has died is
replaced by a program of its own, `python -m dstack.agent.spawner DESCRIPTORS_MAX`: the agent has threads by then.

It also holds the pipes of the jobs that it started. If the agent is killed it lives on until the next agent holds them:
the supervisor may be killed as well, and a pipe without any process that holds it loses what the job has printed.
"""

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dstack.agent import supervisor
from dstack.agent.output import open_pipe
from dstack.agent.paths import JobFolder, is_agent_alive
from dstack.agent.records import read_order
from dstack.agent.signals import SIGNALS

RECEIVE_BYTES = 1 << 16
DESCRIPTORS_MAX = 1 << 16
LINE_DESCRIPTOR = 3
LOOK_EVERY_S = 0.5
NEXT_AGENT_S = 10.0
"""After so many seconds an agent holds the pipes of all jobs that it has found."""


class Spawned(NamedTuple):
    """A spawner, as the agent holds it."""

    pid: int
    line: socket.socket
    """The agent's end: a spawner starts nothing more when it is closed.

    A request is a JSON line `{"folder", "started_at"}`, the answer a line `{"folder", "pid"}` or `{"folder", "error"}`.
    """


def fork_spawner() -> Spawned:
    """Fork the first spawner. Must be called while this process has one thread."""
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        try:
            ours.close()
            _live(theirs)
        except BaseException:  # noqa: BLE001 - this fork must never go back into the agent's code
            traceback.print_exc()
        finally:
            os._exit(0)
    theirs.close()
    return Spawned(pid, ours)


def start_spawner(descriptors_max: int) -> Spawned:
    """Start another spawner, from a process that has threads.

    Args:
        descriptors_max: how many files and sockets jobs may have open.

    Raises:
        OSError: the host does not let a process start.
    """
    ours, theirs = socket.socketpair()
    try:
        argv = [sys.executable, "-m", "dstack.agent.spawner", str(descriptors_max)]
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), LINE_DESCRIPTOR)]
        return Spawned(os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions), ours)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def _live(line: socket.socket) -> None:
    descriptor = line.detach()
    if descriptor != LINE_DESCRIPTOR:
        os.dup2(descriptor, LINE_DESCRIPTOR, inheritable=False)
    os.closerange(LINE_DESCRIPTOR + 1, DESCRIPTORS_MAX)
    line = socket.socket(fileno=LINE_DESCRIPTOR)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Supervisors that have ended are nobody's business here: how they ended is in their folders.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    gc.freeze()
    pipes = _Pipes()
    waiting = b""
    with suppress(ConnectionError):
        while received := line.recv(RECEIVE_BYTES):
            *requests, waiting = (waiting + received).split(b"\n")
            for request in requests:
                line.sendall(json.dumps(_answer(line, pipes, json.loads(request))).encode() + b"\n")
    line.close()
    pipes.outlive_agent()


class _Pipes:
    """The pipes of the jobs that this spawner has started, held open."""

    def __init__(self) -> None:
        self._open: dict[JobFolder, int] = {}

    def hold(self, folder: JobFolder) -> None:
        """Hold the pipe of one more job, and drop those of jobs that have ended."""
        self._drop_ended()
        with suppress(OSError):  # the job has no pipe, or too many files are open: the agent holds it all the same
            self._open[folder] = open_pipe(folder)

    def close(self) -> None:
        """Drop all: for a supervisor, which holds the pipe of its own job alone."""
        for descriptor in self._open.values():
            os.close(descriptor)

    def outlive_agent(self) -> None:
        """Hold the pipes until their jobs have ended, or the next agent has held them for a while."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        alive_since_s: float | None = None
        while self._drop_ended():
            home = next(iter(self._open)).root.parent.parent
            now_s = time.monotonic()
            alive_since_s = (alive_since_s or now_s) if is_agent_alive(home) else None
            if alive_since_s is not None and now_s - alive_since_s >= NEXT_AGENT_S:
                return
            select.select([], [], [], LOOK_EVERY_S)

    def _drop_ended(self) -> bool:
        """Drop the pipes of jobs whose end is written, or whose folder is deleted. Returns whether any is left."""
        for folder in [one for one in self._open if one.end.exists() or not one.pipe.exists()]:
            os.close(self._open.pop(folder))
        return bool(self._open)


def _answer(line: socket.socket, pipes: _Pipes, request: dict[str, object]) -> dict[str, object]:
    folder = JobFolder(Path(str(request["folder"])))
    try:
        pipes.hold(folder)
        return {"folder": request["folder"], "pid": _fork_supervisor(line, pipes, folder, request)}
    except OSError as error:
        return {"folder": request["folder"], "error": str(error)}


def _fork_supervisor(line: socket.socket, pipes: _Pipes, folder: JobFolder, request: dict[str, object]) -> int:
    order = read_order(folder)  # not in the fork: there, each page of memory that is touched is copied
    pid = os.fork()
    if pid != 0:
        return pid
    try:
        line.close()
        pipes.close()
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _redirect(folder)
        if order is not None:  # a job without one is lost, as the agent finds
            supervisor.supervise(folder, order, float(str(request["started_at"])))
    except BaseException:  # noqa: BLE001 - this fork must never go back into the spawner's loop
        traceback.print_exc()
    finally:
        os._exit(0)


def _redirect(folder: JobFolder) -> None:
    """Nothing of the agent's is held open; what goes wrong is said in the job's `agent` log."""
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    output = os.open(folder.log("agent"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)


if __name__ == "__main__":
    with suppress(OSError, ValueError):  # the agent that started it may have more
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    _live(socket.socket(fileno=LINE_DESCRIPTOR))
