"""A home folder of a test's own, with the servers and agents that start in it, and the means to kill them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from dstack.agent.confidential import memory_folder
from dstack.agent.paths import Home as AgentHome
from dstack.agent.resources import probe
from dstack.api import Client
from dstack.kit.locks import is_locked
from dstack.testing.world import TEST_KEY
from tests.e2e import forked
from tests.patience import PATIENCE_S

TOKEN = "the-token-of-the-tests"


def wait_for(what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Return once the condition holds; fail when it does not for too long."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.01)


class Home:
    """Paths are short, because the agent listens on a unix socket below."""

    project = "main"
    """The project of the commands and clients."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("DSTACK_")}
        self.env["HOME"] = str(self.path)
        self._clients: list[Client] = []
        self._started: list[subprocess.Popen[str]] = []
        self._server: subprocess.Popen[str] | None = None

    @property
    def data(self) -> Path:
        """The folder of the server's data."""
        return self.path / ".dstack" / "server"

    def serve(self, database_url: str | None = None) -> dict[str, str]:
        """Start a server that does not end when it is idle. Returns the environment of its clients.

        Args:
            database_url: a PostgreSQL database instead of a file.
        """
        self.env |= {"DSTACK_SERVER_ADMIN_TOKEN": TOKEN, "DSTACK_SERVER_DIR": str(self.data)}
        if database_url is not None:
            shared = {"DSTACK_LOCAL_BACKEND": "1", "DSTACK_ENCRYPTION_KEY": TEST_KEY}
            self.env |= {"DSTACK_DATABASE_URL": database_url, **shared}
        self._server, url = self.start_server()
        about = {"DSTACK_SERVER_URL": url, "DSTACK_TOKEN": TOKEN, "DSTACK_PROJECT": self.project}
        self.env |= about
        return about

    def start_server(self, port: int = 0) -> "tuple[subprocess.Popen[str], str]":
        """`dstack server`, and its URL. What it logs goes into a file."""
        with open(self.path / "servers.log", "a") as log:
            process = self.start_program(*self.command("server", "--port", str(port)), stderr=log)
        assert process.stdout is not None
        return process, process.stdout.readline().split()[-1]

    def cli(self, *args: str, input: str = "", timeout_s: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        """Run `dstack ARGS` to its end."""
        return forked.run(args, env=self.env, cwd=self.path, input=input, timeout_s=timeout_s)

    def run_program(self, *command: str, timeout_s: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        """Run any program in this home to its end."""
        return subprocess.run(
            command,
            env=self.env,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def may_use_port(self, port: int) -> bool:
        """Whether a program of this user could listen on a local port now."""
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return True
        return False

    def command(self, *args: str) -> list[str]:
        """The command line of `dstack ARGS`."""
        return [sys.executable, "-m", "dstack.cli", *args]

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """Start `dstack ARGS`, without a terminal, and go on. It ends with the home at the latest."""
        return self.start_program(*self.command(*args))

    def start_program(self, *command: str, stderr: "int | TextIO" = subprocess.PIPE) -> "subprocess.Popen[str]":
        """Start any program in this home, as `start` does with `dstack`."""
        process = subprocess.Popen(
            command,
            env=self.env,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        self._started.append(process)
        return process

    def write(self, name: str, text: str) -> Path:
        """Make a file in the home, with the folders it needs."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def runs(self) -> "list[dict[str, Any]]":
        """All runs, newest first, as `dstack ps -a --json` shows them."""
        result = self.cli("ps", "-a", "--json")
        assert (result.returncode, result.stderr) == (0, "")
        return list(json.loads(result.stdout))

    def client(self) -> Client:
        """A client of the embedded server. The home must be this process's: the fixture sees to it."""
        client = Client.from_config()
        self._clients.append(client)
        return client

    def server_pid(self) -> int | None:
        """The living server's pid."""
        if self._server is not None:
            return self._server.pid if self._server.poll() is None else None
        if not is_locked(self.data / "server.lock"):
            return None
        return int(json.loads((self.data / "server.lock").read_text())["pid"])

    def server_url(self) -> str:
        """Where the server that lives, or that lived last, says it is."""
        return str(json.loads((self.data / "server.json").read_text())["url"])

    def agent_pid(self) -> int | None:
        """The living agent's pid."""
        for machine in self.machines():
            if is_locked(machine.lock):
                pid = machine.lock.read_text().split()  # empty for a moment, while the agent writes it
                return int(pid[0]) if pid else None
        return None

    def data_planes(self) -> list[int]:
        """The living data planes' pids."""
        locks = self.data.glob("proxy*/lock")
        return [int(lock.read_text()) for lock in locks if is_locked(lock) and lock.read_text()]

    def machines(self) -> list[AgentHome]:
        """The homes of agents."""
        return [AgentHome(path) for path in (self.data / "machines").glob("*")]

    def kill_server(self) -> None:
        """Kill -9 of the server that lives, or that is just starting; one that does not start by itself is started."""
        self._kill(self.server_pid)
        if self._server is not None:
            self._server.wait()
            self._server, _ = self.start_server(int(self.env["DSTACK_SERVER_URL"].rpartition(":")[2]))

    def kill_agent(self) -> None:
        """Kill -9 of the agent that lives, or that is just starting."""
        self._kill(self.agent_pid)

    def _kill(self, find: Callable[[], int | None]) -> None:
        wait_for("somebody to kill", lambda: find() is not None)
        pid = find()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_for("the end of who was killed", lambda: find() != pid)

    def kill_supervisors(self) -> None:
        """Kill -9 of each job's supervisor."""
        for machine in self.machines():
            for folder in machine.jobs.iterdir():
                if is_locked(folder / "lock"):
                    os.kill(int(json.loads((folder / "pid").read_text())["pid"]), signal.SIGKILL)

    def wait_for_no_supervisor(self) -> None:
        """Until every job's supervisor has ended."""

        def none_lives() -> bool:
            return not any(is_locked(lock) for machine in self.machines() for lock in machine.jobs.glob("*/lock"))

        wait_for("the end of all supervisors", none_lives)

    def processes_of_jobs(self) -> list[int]:
        """The pids of everything that a job of this home started and that lives."""
        return self._processes(f"DSTACK_REPO_DIR={self.data}/")

    def processes(self) -> list[int]:
        """The pids of everything that lives and was started in this home: commands, servers, agents, jobs."""
        return self._processes(f"HOME={self.path}\0")

    def _processes(self, marker: str) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if marker.encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def cpus(self) -> int:
        """How many CPUs this machine has, as its agent would say."""
        return probe(self.path).cpus

    def gate(self) -> Path:
        """A pipe: who reads it waits until `open_gate`."""
        path = self.path / "gate"
        if not path.exists():
            os.mkfifo(path)
        return path

    def open_gate(self) -> None:
        """Let one reader of the gate go on, now or when it comes."""
        threading.Thread(target=lambda: self.gate().write_text("open\n"), daemon=True).start()

    def server_log(self) -> str:
        """What the server has written."""
        path = self.data / "server.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End all that was started here, and remove the folder."""
        for client in self._clients:
            client.close()
        for process in self._started:
            process.kill()
            process.communicate()
        self.end_jobs()
        wait_for("the end of all that was started here", lambda: not self.processes())
        for machine in self.machines():
            shutil.rmtree(memory_folder(machine.root), ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def end_jobs(self) -> None:
        """End the server first, since it would start its agent again; then the agents and all jobs."""
        self.end_servers_and_agents()
        for pid in self.processes_of_jobs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end_servers_and_agents(self) -> None:
        """End those that live, in good order; jobs go on."""
        for find in (self.server_pid, self.agent_pid):
            pid = find()
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
                wait_for(f"the end of process {pid}", lambda find=find: find() is None)  # type: ignore[misc]
        for pid in self.data_planes():
            os.kill(pid, signal.SIGTERM)
        wait_for("the end of the data planes", lambda: not self.data_planes())
