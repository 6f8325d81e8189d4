"""`dstack event`: the history of runs and their jobs, of instances and backends, and of members and secrets."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dstack.protocol.views import EventView

HELP = "show the history of runs, instances, backends, members and secrets"
TIME_WIDTH = len("2030-01-31 12:00:00  ")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run and the format."""
    parser.add_argument("--run", dest="run_name", metavar="RUN", help="only those of this run")
    parser.add_argument("-f", "--follow", action="store_true", help="wait for new events and show them")
    parser.add_argument("--json", action="store_true", help="as JSON, one object per line")


def run(arguments: argparse.Namespace) -> int:
    """Show the events, oldest first, once or until Ctrl-C."""
    import sys

    from dstack.cli import words
    from dstack.cli.clients import client_of, get_run

    client = client_of(arguments)
    run_id = get_run(client, arguments.run_name).id if arguments.run_name else None
    stream: Iterable[EventView] = client.events.follow(run_id) if arguments.follow else client.events.list(run_id)
    for event in stream:
        if arguments.json:
            words.show_json(event, is_line=True)
        else:
            words.show(words.wrapped(text_of(event), sys.stdout, indent=" " * TIME_WIDTH))
    return 0


def text_of(event: "EventView") -> str:
    """Return an event as one line with its local time; the run is named once."""
    from dstack.cli import words

    is_named = event.run_name is None or event.run_name in (word.rstrip(":") for word in event.message.split())
    message = words.with_local_times(event.message if is_named else f"{event.run_name}: {event.message}")
    return f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  {message}"
