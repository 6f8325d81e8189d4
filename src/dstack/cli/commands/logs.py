"""`dstack logs`: the output of a job."""

import argparse
import sys
from typing import TYPE_CHECKING

from dstack.cli import files, options

if TYPE_CHECKING:
    from datetime import datetime

HELP = "show the log of a run, and follow it until the run ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run, the job and the time to start from."""
    parser.add_argument("run_name", metavar="RUN")
    parser.add_argument("-d", "--diagnose", action="store_true", help="show the agent's own log about the job instead")
    parser.add_argument("--since", metavar="TIME", help="start at a time such as `10m` ago or `2030-01-31T12:00`")
    options.add_job(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the log to stdout."""
    from dstack.cli import following, words
    from dstack.cli.clients import client_of, get_run
    from dstack.kit.clock import SystemClock

    since = since_of(arguments.since, SystemClock().now()) if arguments.since else None
    one = get_run(client_of(arguments), arguments.run_name)
    which = following.Which(one, arguments.replica, arguments.job)
    # A script that reads stderr has no use for it, and would find it only where the job still runs.
    says_running = sys.stderr.isatty()
    last = following.go_along(which, says_running=says_running, since=since, diagnose=arguments.diagnose)
    if last > 1:
        words.say(following.attempt_text(which, last))
    if not arguments.diagnose and (hint := files.missing_text(one)) is not None:
        words.say(hint)
    return 0


def since_of(text: str, now: "datetime") -> "datetime":
    """Return the time that `--since` names.

    Raises:
        ConfigurationError: the text is neither a duration nor a time.
    """
    from datetime import datetime, timedelta

    from dstack.errors import ConfigurationError
    from dstack.kit.units import parse_duration

    try:
        return now - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"`{text}` is neither a duration nor a time", hint="Write `10m`, `2h`, `1d` or `2030-01-31T12:00`"
        ) from error
