"""`dstack event`: what has happened."""

import argparse

HELP = "show what has happened"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose events, and how."""
    parser.add_argument("--run", dest="run_name", metavar="RUN", help="only those of this run")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    parser.add_argument("--json", action="store_true", help="as JSON, one object a line")


def run(arguments: argparse.Namespace) -> int:
    """Show the events, oldest first, once or until Ctrl-C."""
    from dstack.cli import words
    from dstack.cli.clients import client_of, get_run

    client = client_of(arguments)
    run_id = get_run(client, arguments.run_name).id if arguments.run_name else None
    stream = client.events.follow(run_id) if arguments.follow else client.events.list(run_id)
    for event in stream:
        if arguments.json:
            words.show(event.model_dump_json())
        else:
            subject = event.run_name or "-"
            words.show(f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  {subject:<20}  {event.kind:<24}  {event.message}")
    return 0
