"""`dstack server`: serve in the foreground; show, stop and restart the running server."""

import argparse
import os
from typing import TYPE_CHECKING

from dstack.cli import options, process

if TYPE_CHECKING:
    from pathlib import Path

    from dstack.api._server_control import Running

HELP = "start a server; show, stop or restart the running one"
OBJECTS_BETWEEN_COLLECTIONS = (700, 10, 10)
"""Python's default: a server, unlike other commands, runs for long."""
NOT_RUNNING = 3
"""The exit code where no server runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action, the address and the data folder."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("status", "stop", "restart"),
        help="show, stop or restart the running server (default: start one in the foreground)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=options.port, default=3000, help="the port to listen on (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="DIR", help="the data folder (default: `~/.dstack/server`)")
    parser.add_argument("--token", help="the admin's token (default: `DSTACK_SERVER_ADMIN_TOKEN`, else random)")
    parser.add_argument("-y", "--yes", action="store_true", help="accepted for compatibility; the command asks nothing")
    parser.add_argument("--json", action="store_true", help="show the status as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal, or do the action on the running server."""
    from pathlib import Path

    from dstack.api import _embedded, _places

    _embedded.check_system()
    data_dir = Path(arguments.data_dir or _places.server_folder()).absolute()
    if arguments.action is None:
        import gc

        if arguments.token:
            os.environ["DSTACK_SERVER_ADMIN_TOKEN"] = arguments.token
        from dstack.server.app import serve

        gc.set_threshold(*OBJECTS_BETWEEN_COLLECTIONS)
        process.end_by_signals()
        return serve(arguments.host, arguments.port, data_dir, embedded=False, ready_fd=None)
    return _act(arguments.action, data_dir, as_json=arguments.json)


def _act(action: str, data_dir: "Path", *, as_json: bool) -> int:
    from dstack.api import _server_control as control
    from dstack.cli import words

    running = control.find(data_dir)
    if running is None:
        if action == "status" and as_json:
            _show_json(None, data_dir)
        else:
            words.say(f"No server runs with the data folder `{data_dir}`")
        return NOT_RUNNING
    match action:
        case "status" if as_json:
            _show_json(running, data_dir)
        case "status":
            words.show(_lines_of(running))
        case "stop":
            control.stop(running)
            words.say(f"The server (process {running.pid}) has ended; {_going_on(running)}")
            if running.leaves_idle_agent:
                words.say("An idle agent stays on this machine until the next server ends it")
            if running.embedded:
                words.say(
                    "The next command that needs a server starts it again; a command that follows a run does so at once"
                )
        case _:
            from dstack.server.parts import check_file

            check_file(data_dir)  # before the server that works is stopped
            control.restart(running)
            again = control.find(data_dir)
            words.say(f"The server has restarted at {again.url if again else running.url}")
    return 0


def _lines_of(running: "Running") -> str:
    from dstack.cli import words
    from dstack.kit.clock import SystemClock

    how = "in the background" if running.embedded else "by hand"
    runs = "the server does not answer" if running.active_runs is None else f"{running.active_runs}"
    now = SystemClock().now()
    rows = [
        ("Process", f"{running.pid}, started {how}"),
        ("URL", running.url or "none yet: the server is starting"),
        ("Version", running.version or ""),
        ("Since", f"{words.clock(running.since, now)} ({words.age(running.since, now)})" if running.since else ""),
        ("Data", str(running.data_dir)),
        ("Active runs", runs),
    ]
    return "\n".join(f"{name:<13}{value}".rstrip() for name, value in rows)


def _going_on(running: "Running") -> str:
    match running.active_jobs:
        case None:
            return "its jobs continue"
        case 0:
            return "it had no jobs"
        case 1:
            return "1 job continues without it"
        case count:
            return f"{count} jobs continue without it"


def _show_json(running: "Running | None", data_dir: "Path") -> None:
    import json
    from dataclasses import asdict

    from dstack.cli import words

    about = {"running": running is not None, "data_dir": str(data_dir)}
    if running is not None:
        about |= {**asdict(running), "data_dir": str(data_dir)}
        about["since"] = running.since.isoformat() if running.since else None
    words.show(json.dumps(about, indent=2))
