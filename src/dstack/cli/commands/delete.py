"""`dstack delete`: forget finished runs."""

import argparse

HELP = "delete finished runs with their events and logs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs."""
    parser.add_argument("run_names", metavar="RUN", nargs="+")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """Delete the runs."""
    from dstack.cli import words
    from dstack.cli.clients import client_of, get_run

    client = client_of(arguments)
    runs = [get_run(client, name) for name in arguments.run_names]
    names = ", ".join(f"`{one.name}`" for one in runs)
    if not arguments.yes and not words.confirmed(f"Delete {names} with their events and logs?"):
        return 1
    for one in runs:
        client.runs.delete(one.id)
        words.say(f"{one.name}: deleted")
    return 0
