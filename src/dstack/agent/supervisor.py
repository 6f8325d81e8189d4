"""The process above one job: starts it, moves what it prints into its log, and writes down how it has ended.

It needs neither the agent nor the spawner to live. What it is asked comes as files in the job's folder, and as SIGTERM,
which means: the file `stop` was written. It is single-threaded and takes its signals when it asks for them, so that
nothing here can be interrupted in the wrong place.
"""

import ctypes
import fcntl
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from dstack.agent import confidential, processes
from dstack.agent.carrier import carry
from dstack.agent.endings import ending_of
from dstack.agent.environment import find_shell, job_environment, resolve_working_dir
from dstack.agent.notes import note
from dstack.agent.output import Output, lost_in_words
from dstack.agent.paths import JobFolder, take_lock, write_json
from dstack.agent.records import Ending, read_grace_s
from dstack.agent.signals import SIGNALS, signal_descriptor, take_signals
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock, SystemClock
from dstack.protocol.agent import JobOrder

PR_SET_CHILD_SUBREAPER = 36
SWEEP_S = 0.02
SWEEP_S_MAX = 1.0
GIVE_UP_S = 120.0
"""After so many seconds of SIGKILL, what is left cannot be killed (it hangs in the kernel, or is another user's)."""
HELD_DESCRIPTOR_MIN = 200
_SETTABLE = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_libc = ctypes.CDLL(None, use_errno=True)


def supervise(folder: JobFolder, order: JobOrder, started_at: float) -> None:
    """Live as the supervisor of a process job, or as the carrier of a container job, until the job has ended.

    Does nothing where a process job has, or had, a supervisor already, or the agent has given the job up meanwhile.

    Args:
        started_at: seconds since the epoch, to be written down.
    """
    if order.container is not None:
        return carry(folder, started_at)
    if take_lock(folder.lock) is None or folder.pid.exists() or folder.end.exists():
        return
    held = confidential.hold_environment(order.env)
    write_json(folder.pid, {"pid": os.getpid(), "started_at": started_at, "environment": held})
    confidential.forget(folder)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    clock = SystemClock(begin_s=started_at)
    ending = _Supervisor(folder, order, clock).run()
    write_json(folder.end, asdict(ending), durable=True)


class _Supervisor:
    def __init__(self, folder: JobFolder, order: JobOrder, clock: Clock) -> None:
        self._folder = folder
        self._order = order
        self._clock = clock
        self._output = Output(folder)
        self._signals = signal_descriptor(SIGNALS)
        self._main = 0
        self._main_status: int | None = None
        self._end = "exited"
        self._deadline = float("inf") if order.max_duration_s is None else time.monotonic() + order.max_duration_s
        self._kill_at = float("inf")
        """When grace is over; infinite while nobody wants an end."""
        self._pause_s = SWEEP_S
        self._message = ""

    def run(self) -> Ending:
        try:
            self._main = launch(self._folder, self._order)
        except Exception as error:  # noqa: BLE001 - logged there: the job must have an end
            self._note(f"could not start: {error}")
            return ending_of(self._folder, error, self._now())
        self._note(f"started process {self._main}")
        while self._reap() and not self._gave_up():
            self._end_what_is_due()
            self._await_signal()
        return self._ending()

    def _reap(self) -> bool:
        """Take in all children that have ended. Returns whether any is left, which then may have descendants."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._main:
                self._main_status = status

    def _end_what_is_due(self) -> None:
        if time.monotonic() >= self._deadline:
            self._note(f"the job has run for {self._order.max_duration_s:g} s, its `max_duration`")
            self._ask_to_end(self._order.stop_grace_s, "max_duration")
        elif self._main_status is not None and self._kill_at == float("inf"):
            self._note("the script has ended and left processes behind, which are ended too")
            self._ask_to_end(self._order.stop_grace_s, self._end)
        if time.monotonic() >= self._kill_at:
            processes.kill_all(lambda: processes.descendants(os.getpid()))

    def _ask_to_end(self, grace_s: float, end: str) -> None:
        """SIGTERM to everything now, SIGKILL after the grace; asked again, only the grace can get shorter."""
        if self._main_status is None and self._end == "exited":
            self._end = end
        self._deadline = float("inf")
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)
        if grace_s > 0:
            targets = processes.descendants(os.getpid())
            processes.send(signal.SIGTERM, targets)
            processes.send(signal.SIGCONT, targets)

    def _await_signal(self) -> None:
        """Until a signal comes or something is due; what the job prints is moved meanwhile."""
        now = time.monotonic()
        if now >= self._kill_at:
            timeout_s = self._pause_s
            self._pause_s = min(self._pause_s * 1.5, SWEEP_S_MAX)
        else:
            timeout_s = max(0.0, min(self._deadline, self._kill_at) - now)
        # Longer waits than a day overflow on some systems, and one wake-up a day costs nothing.
        if self._output.wait(self._signals, min(timeout_s, 86400.0)) and signal.SIGTERM in take_signals(self._signals):
            wish_s = read_grace_s(self._folder)
            grace_s = self._order.stop_grace_s if wish_s is None else wish_s
            self._note(f"asked to stop, with {grace_s:g} s of grace")
            self._ask_to_end(grace_s, "stopped")

    def _gave_up(self) -> bool:
        if time.monotonic() < self._kill_at + GIVE_UP_S:
            return False
        left = sorted(processes.descendants(os.getpid()))
        self._message = f"The processes {left} did not end, not even by SIGKILL"
        self._note(self._message)
        return True

    def _ending(self) -> Ending:
        lost = lost_in_words(self._output.empty())
        message = "; ".join(filter(None, (self._message, lost)))
        if self._main_status is None:
            return Ending(self._end, self._now(), message=message)
        code = os.waitstatus_to_exitcode(self._main_status)
        number = -code if code < 0 else None
        code = 128 - code if code < 0 else code
        self._note(f"ended with exit code {code}" + ("" if number is None else f", by signal {number}"))
        return Ending(self._end, self._now(), code, number, message)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _note(self, text: str) -> None:
        note(self._folder, self._clock, text)


def launch(folder: JobFolder, order: JobOrder) -> int:
    """Start the job's shell on its script, in a session of its own. Returns its pid.

    Raises:
        AgentRefused, OSError: it did not start.
    """
    working_dir = resolve_working_dir(folder.files, order.working_dir)
    working_dir.mkdir(parents=True, exist_ok=True)
    env = job_environment(order, folder, os.environ, working_dir)
    argv = [find_shell(order, env.get("PATH")), str(folder.script)]
    script = os.open(folder.script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(script, "wb") as file:
        file.write(order.script.encode())
    failures, report_to = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_job(folder, working_dir, argv, env, report_to)
    os.close(report_to)
    with open(failures, "rb") as pipe:
        # Ends without a byte once the shell has taken over.
        failure = pipe.read().decode()
    if failure:
        os.waitpid(pid, 0)
        raise AgentRefused(failure)
    return pid


def _become_job(folder: JobFolder, working_dir: Path, argv: list[str], env: dict[str, str], report_to: int) -> None:
    """Turn this fork into the job; never returns. Of the supervisor's descriptors only the job's own are inherited."""
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _hold_open(folder)
        # Not for reading, too: some programs take an output that is readable for one whose reader is gone.
        output = os.open(folder.pipe, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(working_dir)
        for number in _SETTABLE:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(argv[0], argv, env)
    except BaseException as error:  # noqa: BLE001 - this fork must never go back into the supervisor's code
        os.write(report_to, f"The shell `{argv[0]}` could not be started: {error}".encode())
    finally:
        os._exit(127)


def _hold_open(folder: JobFolder) -> None:
    """Have the job itself be a reader of its pipe, so that it gets no SIGPIPE while supervisor and agent are dead."""
    descriptor = os.open(folder.pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):  # so few descriptors are allowed
        # A number that no script uses by itself.
        fcntl.fcntl(descriptor, fcntl.F_DUPFD, HELD_DESCRIPTOR_MIN)
