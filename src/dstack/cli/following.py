"""Following a run: its status until it runs, its log until it ends, and the meaning of Ctrl-C."""

import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from dstack.cli import words
from dstack.cli.process import refusal_of
from dstack.errors import DstackError, ResourceNotExistsError
from dstack.kit.addresses import authority
from dstack.kit.clock import SystemClock
from dstack.protocol.jobs import no_job_text
from dstack.protocol.statuses import JobStatus, RunStatus

if TYPE_CHECKING:
    from dstack.api import Run
    from dstack.protocol.views import AttemptView, JobView, PullView

WAITING = (JobStatus.SUBMITTED, JobStatus.PROVISIONING, JobStatus.PULLING)
"""The statuses before an attempt begins."""
EDITORS = {"vscode": "VS Code", "cursor": "Cursor", "windsurf": "Windsurf"}
WAY_IN_DELAY_S = 0.5
"""The time that a job without ports runs before the command attaches to it."""
WAY_IN_END_S = 5.0
"""The longest wait for a pending attach; the end of the program closes its connections."""
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Which:
    """One of a run's jobs, through all of its attempts."""

    run: "Run"
    replica: int = 0
    node: int = 0

    @property
    def latest(self) -> "JobView | None":
        """The job's latest attempt, as the run shows it; None before the run's first start.

        Raises:
            ResourceNotExistsError: the run has no such job.
        """
        jobs = self.run.view.jobs
        found = next((one for one in jobs if (one.replica, one.node) == (self.replica, self.node)), None)
        if found is None and (jobs or min(self.replica, self.node) < 0):
            known = [(one.replica, one.node) for one in jobs]
            raise ResourceNotExistsError(no_job_text(self.run.name, self.replica, self.node, known))
        return found

    def attempt(self, number: int) -> "JobView | AttemptView | None":
        """One attempt of the job, where it is known."""
        latest = self.latest
        known: list[JobView | AttemptView] = [] if latest is None else [*latest.earlier, latest]
        return next((one for one in known if one.attempt == number), None)

    def is_running(self, number: int) -> bool:
        """Return whether this attempt runs."""
        latest = self.latest
        return latest is not None and latest.attempt == number and latest.status is JobStatus.RUNNING

    def has_begun(self, number: int) -> bool:
        """Return whether an attempt may have printed something, or has ended."""
        latest = self.latest
        if latest is None or latest.attempt < number:
            return False
        return latest.attempt > number or latest.status not in WAITING


def go_along(
    which: Which,
    *,
    shows_log: bool = True,
    says_running: bool = True,
    enter: Callable[[], None] | None = None,
    since: datetime | None = None,
    diagnose: bool = False,
) -> int:
    """Follow a job until the run ends: the log of each attempt as it is printed, and a line for each but the last.

    Args:
        which: the job.
        shows_log: whether to show the log, not only the lines.
        says_running: whether to write a line that an attempt runs, since its job may be silent.
        enter: attaches to the job, once an attempt of it runs.
        since: leave out output printed before.
        diagnose: show the agent's own log about the job instead.

    Returns:
        The number of the last attempt.
    """
    run, first = which.run, _first_attempt(which, since, shows_log=shows_log)
    number = first
    while True:
        wait_until_begun(which, number)
        if which.attempt(number) is None:
            return number - 1  # the run has ended before it
        if which.is_running(number):
            if enter is not None and run.ssh_host is None:
                enter()
            if shows_log and says_running:
                _say_running(which, number, is_first=number == first)
        if shows_log and _may_have_printed(which.attempt(number)):
            words.show_bytes(run.attempt_logs(number, since, diagnose, which.replica, which.node))
        if not _has_next(which, number):
            return number
        number += 1


def _say_running(which: Which, number: int, *, is_first: bool) -> None:
    again = f" again (attempt {number})" if number > 1 else ""
    words.say(f"{which.run.name} is running{again}; its output follows")
    if is_first:
        _say_others(which)


def _say_others(which: Which) -> None:
    """Write which of several jobs this is, and how to see another; nothing for a run of one job."""
    name, replica, node = which.run.name, which.replica, which.node
    jobs = which.run.view.jobs
    if nodes := [job.node for job in jobs if job.replica == replica and job.node != node]:
        to_replica = f" --replica {replica}" if replica else ""
        words.say(
            f"{name} has {len(nodes) + 1} nodes; this is node {node}. "
            f"`dstack logs {name}{to_replica} --job {nodes[0]}` shows node {nodes[0]}"
        )
    elif replicas := [job.replica for job in jobs if job.replica != replica]:
        words.say(
            f"{name} has {len(replicas) + 1} replicas; this is replica {replica}. "
            f"`dstack logs {name} --replica {replicas[0]}` shows replica {replicas[0]}"
        )


def _first_attempt(which: Which, since: datetime | None, *, shows_log: bool) -> int:
    """Return the number of the first attempt that ended after `since`; of the latest one if no log is shown."""
    latest = which.latest
    if not shows_log:
        return latest.attempt if latest else 1
    over = [one for one in (latest.earlier if latest else ()) if since and one.finished_at and one.finished_at < since]
    return 1 + len(over)


def _may_have_printed(attempt: "JobView | AttemptView | None") -> bool:
    """Return whether an attempt may have a log; attempts without a machine have none."""
    if attempt is None:
        return False
    return not attempt.status.is_finished() or attempt.started_at is not None or attempt.exit_code is not None


def wait_until_begun(which: Which, number: int = 1) -> None:
    """Show the reason why an attempt waits, until it has begun or the run has ended."""

    def is_over(now: "Run") -> bool:
        return which.has_begun(number) or now.status.is_finished()

    def is_told(now: "Run") -> bool:
        return number > 1 and now.status is RunStatus.PENDING  # in the line about the attempt before

    show_until(which.run, is_over, lambda now: waiting_text(now, number), is_told)


def show_until(
    run: "Run",
    is_over: Callable[["Run"], bool],
    text_of: Callable[["Run"], str],
    is_told: Callable[["Run"], bool] = lambda now: False,
) -> None:
    """Show how far a run is, in a line that changes, until something holds.

    Args:
        run: the run.
        is_over: whether it holds.
        text_of: the line. The progress of an image pull takes its place.
        is_told: whether a terminal alone shows the line.
    """
    told = -1
    with words.StatusLine() as line:
        for now in run.changes():
            if is_over(now):
                return
            if (pull := _pull_of(now)) is None:
                line.set(text_of(now), is_lasting=not is_told(now))
            else:
                tenths = int(10 * pull.got_bytes / (pull.size_bytes or math.inf))
                line.set(f"{now.name}: {pull_text(pull, with_bar=line.is_live)}", is_lasting=tenths > told)
                told = max(told, tenths)


def waiting_text(run: "Run", number: int = 1) -> str:
    """Return the status of a run that waits, with the reason or the time of its next attempt."""
    service = run.view.service
    if run.status is RunStatus.RUNNING and service is not None and not run.view.replicas_asked:
        return f"{run.name}: no replica runs; {service.waits_for}"
    if run.status is RunStatus.PENDING and (at := run.view.next_start_at) is not None:
        return f"{run.name}: pending, attempt {number} starts at {words.clock(at, SystemClock().now())}"
    return f"{run.name}: {run.status}{f', {run.detail}' if run.detail else ''}"


def _has_next(which: Which, number: int) -> bool:
    """Wait for the next attempt, and write how this one ended; return False if the run ends instead."""
    for now in which.run.changes():
        latest = which.latest
        if (latest is not None and latest.attempt > number) or now.status is RunStatus.PENDING:
            words.say(attempt_text(which, number))
            return True
    return False


def attempt_text(which: Which, number: int) -> str:
    """Return how an attempt ended, and when the next one starts if known."""
    run, tried = which.run, which.attempt(number)
    if tried is None:
        return f"{run.name}: attempt {number} ended"
    why = words.why(tried.status, tried.reason, tried.detail)
    at = run.view.next_start_at if run.status is RunStatus.PENDING else None
    is_next = which.latest is not None and which.latest.attempt == number
    then = f"; attempt {number + 1} starts at {words.clock(at, SystemClock().now())}" if at and is_next else ""
    return f"{run.name}: attempt {number} {tried.status}{f' ({why})' if why else ''}{then}"


def _pull_of(run: "Run") -> "PullView | None":
    """Return the progress of the run's slowest image pull."""
    pulls = [job.pull for job in run.view.jobs if job.pull is not None]
    return max(pulls, key=lambda pull: (pull.size_bytes or 0) - pull.got_bytes, default=None)


def pull_text(pull: "PullView", *, with_bar: bool) -> str:
    """One line for a pull: bytes and a bar where the size is known, and how many layers are ready."""
    layers = f"{pull.layers_ready} of {pull.layers} layers"
    if pull.size_bytes is None:
        return f"pulling the image, {layers}"
    bytes_text = f"{pull.got_bytes / 1e6:.1f} of {pull.size_bytes / 1e6:.1f} MB"
    bar = f"  {words.bar(pull.got_bytes, pull.size_bytes)}  " if with_bar else ", "
    return f"pulling the image{bar}{bytes_text}, {layers}"


def attach(
    run: "Run", *, bind_address: str | None = None, ports: list[str] | None = None, replica: int = 0, job: int = 0
) -> None:
    """Attach to the run; show the local ports and the link for the editor."""
    run.attach(bind_address=bind_address, ports_overrides=ports, replica_num=replica, job_num=job)
    for container_port, local_port in (run.ports or {}).items():
        address = authority(bind_address or "localhost", local_port)
        words.say(f"Port {container_port} of `{run.name}` is forwarded to {address}")
    if (link := run.editor_url) is not None:
        words.say(f"{EDITORS[link.partition(':')[0]]}: open {link}")


def follow(run: "Run", *, shows_log: bool = True) -> int:
    """Follow a run until it ends; return the exit code for the command."""
    way_in = _WayIn(run)
    try:
        go_along(Which(run), shows_log=shows_log, enter=way_in.open)
        way_in.close()
        wait_until_ended(run)  # the way in may have fetched the run before its end, and shown it afterwards
        return ended(run)
    except KeyboardInterrupt:
        way_in.close()
        return interrupted(run)
    finally:
        way_in.close()
        run.detach()


class _WayIn:
    """The way into a run that was just submitted. Without ports it opens later: a short job ends before."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._later: threading.Timer | None = None

    def open(self) -> None:
        """Open it now if a port or an editor needs it, else beside the log."""
        self.close()
        if self._run.ssh_host is not None:
            return
        if self._run.view.type == "dev-environment" or any(job.ports for job in self._run.view.jobs):
            _enter(self._run)
            return
        self._later = threading.Timer(WAY_IN_DELAY_S, self._open_late)
        self._later.name = "dstack-way-in"
        self._later.daemon = True
        self._later.start()

    def _open_late(self) -> None:
        """Open it if the job still runs: an attach would wait for the next attempt, and Ctrl-C with it."""
        latest = Which(self._run).latest
        if latest is not None and latest.status is JobStatus.RUNNING:
            _enter(self._run)

    def close(self) -> None:
        """Open it no more, and wait for one that is being opened, so that it can be undone."""
        if self._later is not None:
            self._later.cancel()
            self._later.join(WAY_IN_END_S)


def _enter(run: "Run") -> None:
    """Attach to a run that was just submitted; a failure is only a warning, since the run continues."""
    from dstack.api import _ssh_config

    try:
        attach(run)
        if run.editor_url is not None and run.ssh_host is not None:
            way_in = _ssh_config.command(run.ssh_host)
            words.say(f"Open a shell in it with `{way_in}`; attach again later with `dstack attach {run.name}`")
    except DstackError as error:
        words.say_error(error, label="warning")
    except OSError as error:
        words.say_error(refusal_of(error), label="warning")


def wait_until_ended(run: "Run") -> None:
    """Wait for the run's end."""
    for _ in run.changes():
        pass


def ended(run: "Run") -> int:
    """Write how the run ended; return its exit code."""
    code = run.exit_code
    if run.status is RunStatus.DONE:
        words.say(f"{run.name}: done")
        return 0
    why = words.why(run.status, run.reason, run.detail)
    words.say(f"{run.name}: {run.status}{f' ({why})' if why else ''}")
    return code or EXIT_ERROR


def interrupted(run: "Run") -> int:
    """Ask whether to stop the run; a second Ctrl-C leaves it running. Without a terminal the run is stopped."""
    words.say("")
    try:
        if not sys.stdin.isatty() or words.confirmed(
            f"Stop the run `{run.name}` before exiting (Ctrl-C again leaves it running)?"
        ):
            run.stop()
            words.say(f"{run.name}: stopping")
            return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        words.say("")
    words.say(
        f"The run continues. Attach again with `dstack attach --logs {run.name}`; stop it with `dstack stop {run.name}`"
    )
    return EXIT_INTERRUPTED
