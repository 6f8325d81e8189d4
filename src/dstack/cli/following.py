"""Going along with a run: its status until it runs, then its log until it ends, and what Ctrl-C means meanwhile."""

import math
import sys
from typing import TYPE_CHECKING

from dstack.cli import words
from dstack.cli.process import output
from dstack.errors import ClientError
from dstack.kit.addresses import authority
from dstack.protocol.statuses import RunStatus

if TYPE_CHECKING:
    from dstack.api import Run
    from dstack.protocol.views import PullView

EDITORS = {"vscode": "VS Code", "cursor": "Cursor", "windsurf": "Windsurf"}
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def wait_until_running(run: "Run") -> None:
    """Show what the run waits for, until it runs or has ended."""
    told = -1
    with words.StatusLine() as line:
        for now in run.changes():
            if now.status is RunStatus.RUNNING or now.status.is_finished():
                return
            if (pull := _pull_of(now)) is None:
                line.set(f"{run.name}: {now.status}{f', {now.detail}' if now.detail else ''}")
            else:
                tenths = int(10 * pull.got_bytes / (pull.size_bytes or math.inf))
                line.set(f"{run.name}: {pull_text(pull, with_bar=line.is_live)}", is_lasting=tenths > told)
                told = max(told, tenths)


def _pull_of(run: "Run") -> "PullView | None":
    """How far the run's images are: of several machines, the one that has most to get yet."""
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
    """Open the way in; tell where the ports are, and how an editor comes in."""
    run.attach(bind_address=bind_address, ports_overrides=ports, replica_num=replica, job_num=job)
    for container_port, local_port in (run.ports or {}).items():
        words.say(f"Port {container_port} of `{run.name}` is at {authority(bind_address or 'localhost', local_port)}")
    if (link := run.editor_url) is not None:
        words.say(f"{EDITORS[link.partition(':')[0]]} opens it here: {link}")


def write_log(run: "Run", *, replica: int = 0, job: int = 0) -> None:
    """Write the log of one of the run's jobs to stdout, byte for byte, until the run has ended."""
    for chunk in run.logs(replica_num=replica, job_num=job):
        with output():
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def follow(run: "Run", *, shows_log: bool = True) -> int:
    """Go along with a run until it ends; returns the exit code for the command."""
    from dstack.api import _ssh_config

    try:
        wait_until_running(run)
        try:
            attach(run)
            if run.editor_url is not None and run.ssh_host is not None:
                way_in = _ssh_config.command(run.ssh_host)
                words.say(f"`{way_in}` leads into it; later on, `dstack attach {run.name}` comes back to it")
        except ClientError as error:  # the run goes on, and so can we, without its ports
            words.say_error(error, label="warning")
        if shows_log:
            write_log(run)
        else:
            wait_until_ended(run)
        return ended(run)
    except KeyboardInterrupt:
        return _interrupted(run)
    finally:
        run.detach()


def wait_until_ended(run: "Run") -> None:
    """Wait for the run's end."""
    for _ in run.changes():
        pass


def ended(run: "Run") -> int:
    """Say how the run ended; returns its exit code."""
    code = run.exit_code
    if run.status is RunStatus.DONE:
        words.say(f"{run.name}: done")
        return 0
    why = words.why(run.status, run.reason, run.detail)
    words.say(f"{run.name}: {run.status}{f' ({why})' if why else ''}")
    return code or EXIT_ERROR


def _interrupted(run: "Run") -> int:
    """Ask whether to stop the run; a second Ctrl-C leaves it running. Without a terminal the run is stopped."""
    words.say("")
    try:
        if not sys.stdin.isatty() or words.confirmed(
            f"Stop the run `{run.name}` before leaving (Ctrl-C again leaves it running)?"
        ):
            run.stop()
            words.say(f"{run.name}: stopping")
            return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        words.say("")
    words.say(f"The run goes on. `dstack attach --logs {run.name}` comes back to it, `dstack stop {run.name}` ends it")
    return EXIT_INTERRUPTED
