"""Kills and freezes at random moments, jobs that note what they have printed, and the proof that nothing of it is lost.

A job notes the number of each line that it has printed in a file beside the log. A log can be judged by it, also that
of a job which was cut off.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dstack.agent import processes
from dstack.agent.paths import read_json
from dstack.api import Client, Run, Task
from dstack.errors import DstackError, ServerUnreachableError
from dstack.kit.locks import is_locked
from dstack.protocol.views import JobView
from tests.e2e.home import Home, wait_for
from tests.engines import SHELL_IMAGE, DockerEngine

PATIENCE_S = 180.0
"""For one job, from its submit to its end, while all around it is killed."""

ENGINE_AWAY = "does not answer"
"""Why the server refuses containers where there is no engine at this moment."""

CUT_OFF = "the container engine of the machine died while it started it"
"""The one end that an engine's death may bring. A container that runs already may be one that its engine never knows:
Docker takes a start for failed whose containerd dies in it. The agent then ends what runs, since its exit code is lost.
"""

CODE_LOST = (255, None)
"""The exit codes that an engine has for a container which ended while its containerd was away."""

RETRY = {"on_events": ["error", "interruption"], "duration": "1h"}

T = TypeVar("T")

SAID_BY_THE_SHELL = b"Terminated\n"
"""When it is asked to end while it waits for another program."""

LINE = re.compile(rb"(\S+) (\d+)\n")


@dataclass(frozen=True, slots=True)
class Plan:
    """One job, and what is done to it."""

    name: str
    in_container: bool
    lines: int
    pause: str
    exit_code: int
    retries: bool
    """Whether its first attempt fails, and it is tried again."""
    stop_at: int | None
    """After which of its lines it is stopped."""
    visit_at: int | None
    """After which of its lines somebody comes in."""

    def task(self, truth: Path) -> Task:
        """What is submitted."""
        place = "/truth" if self.in_container else str(truth)
        first = f"mkdir {place}/{self.name} 2>/dev/null && code=9\n" if self.retries else ""
        script = (
            f"code={self.exit_code}\n{first}"
            f"i=0\nwhile [ $i -lt {self.lines} ]; do\n"
            f"i=$((i+1)); echo $DSTACK_JOB_ID $i; echo $i >> {place}/$DSTACK_JOB_ID; {self.pause}\n"
            "done\nexit $code"
        )
        inside = {"image": SHELL_IMAGE, "volumes": [f"{truth}:/truth"]} if self.in_container else {}
        return Task(commands=[script], retry=RETRY if self.retries else None, stop_duration=2, **inside)


def draw_plan(chance: random.Random, name: str, *, containers: bool) -> Plan:
    """A job: fast or slow, good or bad, left alone or not."""
    retries = chance.random() < 0.2
    lines, pause = chance.choice([(1500, ":"), (120, "sleep 0.02"), (25, "sleep 0.2"), (3, "sleep 0.5")])
    return Plan(
        name,
        in_container=containers and chance.random() < 0.5,
        lines=lines,
        pause=pause,
        exit_code=0 if retries else chance.choice([0, 0, 7]),
        retries=retries,
        stop_at=chance.randrange(lines) if chance.random() < 0.15 else None,
        visit_at=chance.randrange(lines) if chance.random() < 0.15 else None,
    )


@dataclass
class Victims:
    """Who may be killed: each by a way to find a process of it at this moment."""

    home: Home
    engine: DockerEngine | None
    lost: set[str] = field(default_factory=set)
    """The jobs whose supervisor was killed."""

    def ways(self) -> Mapping[str, Callable[[random.Random], int | None]]:
        """By name; those that are not there at a moment are None."""
        ways = {
            "server": lambda _: self.home.server_pid(),
            "agent": lambda _: self.home.agent_pid(),
            "spawner": lambda _: self._child_of_agent(sshd=False),
            "SSH server": lambda _: self._child_of_agent(sshd=True),
            "supervisor": self._supervisor,
        }
        if self.engine is not None:
            ways |= {"engine": lambda _: self.engine.daemon_pid(), "containerd": lambda _: self.engine.containerd_pid()}
        return ways

    def _child_of_agent(self, *, sshd: bool) -> int | None:
        agent = self.home.agent_pid()
        for pid, parent in processes.parents().items() if agent else ():
            if parent == agent:
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if b"dstack.agent" in command and (b"dstack.agent.sshd" in command) == sshd:
                        return pid
        return None

    def _supervisor(self, chance: random.Random) -> int | None:
        alive = {}
        for machine in self.home.machines():
            for folder in map(machine.job, (path.name for path in machine.jobs.glob("*"))):
                known = read_json(folder.pid, dict) if is_locked(folder.lock) else None
                if known is not None:
                    alive[folder.job_id] = int(known["pid"])
        if not alive:
            return None
        job_id = chance.choice(sorted(alive))
        self.lost.add(job_id)
        return alive[job_id]


class Killer:
    """Kills and freezes, one after the other."""

    def __init__(self, victims: Victims, chance: random.Random, names: list[str]) -> None:
        self._victims = victims
        self._chance = chance
        self._names = names
        self.counts: dict[str, int] = {}
        self.story: list[str] = []

    def strike(self) -> bool:
        """Kill or freeze somebody. Returns whether there was anybody of the kind that was drawn."""
        name = self._chance.choice(self._names)
        freezes = self._chance.random() < 0.3
        pid = self._victims.ways()[name](self._chance)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            if freezes:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self._chance.uniform(0.05, 2.0))
                os.kill(pid, signal.SIGCONT)
            elif name == "engine" and self._victims.engine is not None:
                self._victims.engine.kill_daemon()
                self._victims.engine.start_daemon()
            else:
                os.kill(pid, signal.SIGKILL)
        what = f"{name} {'frozen' if freezes else 'killed'}"
        self.story.append(f"{time.strftime('%H:%M:%S')} {what} ({pid})")
        self.counts[what] = self.counts.get(what, 0) + 1
        return True


class Worker(threading.Thread):
    """Submits one job after the other, follows each to its end, and looks whether all is right."""

    def __init__(self, home: Home, victims: Victims, chance: random.Random, number: int) -> None:
        super().__init__(name=f"worker {number}", daemon=True)
        self._home = home
        self._victims = victims
        self._chance = chance
        self._number = number
        self._client = home.client()
        self.is_last = threading.Event()
        """Set when no more jobs are to be submitted."""
        self.done = 0
        self.plan: Plan | None = None
        self.wrong: list[str] = []
        self.story: list[str] = []
        self._since = time.monotonic()

    @property
    def is_stuck(self) -> bool:
        """Whether its job takes too long."""
        return self.is_alive() and time.monotonic() - self._since > PATIENCE_S

    def run(self) -> None:
        while not self.is_last.is_set():
            self._since = time.monotonic()
            name = f"job-{self._number}-{self.done}"
            plan = self.plan = draw_plan(self._chance, name, containers=self._victims.engine is not None)
            self.story.append(f"{time.strftime('%H:%M:%S')} {plan}")
            try:
                self._live(plan)
            except Exception as error:  # noqa: BLE001 - the main thread reports it
                self.wrong.append(f"{plan}: {type(error).__name__}: {error}")
            self.done += 1

    def _live(self, plan: Plan) -> None:
        truth = self._home.path / "truth"
        run = steadily(lambda: _submitted(self._client, plan, truth))
        log = b""
        todo = {at: do for at, do in ((plan.stop_at, "stop"), (plan.visit_at, "visit")) if at is not None}
        while True:
            try:
                for chunk in run.logs():
                    log += chunk
                    for at in [at for at in todo if log.count(b"\n") > at]:
                        self._meet(run, todo.pop(at))
                break
            except ServerUnreachableError:
                log = b""  # from the beginning
        steadily(run.refresh)
        (job,) = run.view.jobs
        wrong = judged(plan, job, log, truth, self._victims.lost, is_stopped=plan.stop_at not in (None, *todo))
        self.wrong += [f"{plan} ended {run.status} {job.reason} {job.detail!r} {job.id}: {one}" for one in wrong]

    def _meet(self, run: Run, what: str) -> None:
        if what == "stop":
            steadily(run.stop)
            return
        result = self._home.cli("exec", run.name, "echo", "inside", timeout_s=PATIENCE_S / 2)
        if result.returncode == 0 and result.stdout != "inside\n":
            self.wrong.append(f"the visit to {run.name} printed {result.stdout!r}")


def _submitted(client: Client, plan: Plan, truth: Path) -> Run:
    known = client.runs.get(plan.name)
    return known if known is not None else client.runs.submit(plan.task(truth), run_name=plan.name)


def steadily(call: Callable[[], T]) -> T:
    """Do something that may be done again, until a server answers, and until the engine that it needs is there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except DstackError as error:
            is_passing = isinstance(error, ServerUnreachableError) or ENGINE_AWAY in str(error)
            if not is_passing or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def judged(plan: Plan, job: JobView, log: bytes, truth: Path, lost: set[str], *, is_stopped: bool) -> list[str]:
    """What is wrong with a job that has ended."""
    try:
        printed = _lines_by_attempt(log)
    except ValueError as error:
        return [str(error)]
    wrong = [said for id, numbers in printed.items() if (said := _misprinted(id, numbers, _noted(truth / id)))]
    attempts = [*(attempt.id for attempt in job.earlier), job.id]
    wrong += [f"nothing is there of {id}" for id in attempts if id not in printed and _noted(truth / id)]
    was_cut_off = plan.in_container and job.detail.endswith(CUT_OFF)
    if not is_stopped and job.id not in lost and not was_cut_off:
        count = len(printed.get(job.id, []))
        codes = (plan.exit_code, *CODE_LOST) if plan.in_container else (plan.exit_code,)
        if job.exit_code not in codes or count != plan.lines:
            wrong.append(
                f"exit code {job.exit_code} after {count} lines instead of {plan.exit_code} after {plan.lines}"
            )
    return wrong


def _lines_by_attempt(log: bytes) -> dict[str, list[int]]:
    printed: dict[str, list[int]] = {}
    log = log.replace(SAID_BY_THE_SHELL, b"")
    end = 0
    for found in LINE.finditer(log):
        if found.start() != end:
            break
        printed.setdefault(found[1].decode(), []).append(int(found[2]))
        end = found.end()
    if end != len(log):
        raise ValueError(f"no job has printed {log[end : end + 100]!r}, at byte {end}")
    return printed


def _misprinted(job_id: str, numbers: list[int], noted: int) -> str:
    if numbers != list(range(1, len(numbers) + 1)):
        return f"the lines of {job_id} are not in order: {_first_break(numbers)}"
    if not noted <= len(numbers) <= noted + 1:
        return f"{job_id} has printed {noted} lines or one more, and its log has {len(numbers)}"
    return ""


def _noted(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _first_break(numbers: list[int]) -> str:
    at = next(index for index, number in enumerate(numbers) if number != index + 1)
    return f"after {numbers[max(0, at - 2) : at]} comes {numbers[at : at + 3]}"


def assert_nothing_is_left(home: Home, engine: DockerEngine | None) -> None:
    """No process, no container, no machine that nobody claims."""
    wait_for("the end of all processes of jobs", lambda: not home.processes_of_jobs())
    if engine is not None:
        wait_for("the removal of all containers", lambda: engine.containers() == [], 60.0)
    wait_for("an audit without findings", lambda: _is_clean(home.cli("audit", "--json")), 120.0)


def _is_clean(result: "subprocess.CompletedProcess[str]") -> bool:
    states = re.findall(r'"state": *"(\w+)"', result.stdout)
    return result.returncode == 0 and set(states) <= {"claimed"}


def errors_of(workers: list[Worker]) -> list[str]:
    """What went wrong, and whose job is stuck."""
    return [*(wrong for one in workers for wrong in one.wrong), *(f"{plan} is stuck" for plan in stuck(workers))]


def stuck(workers: list[Worker]) -> list[Plan]:
    """The jobs that take too long."""
    return [one.plan for one in workers if one.is_stuck and one.plan is not None]
