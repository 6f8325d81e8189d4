"""`dstack delete`: delete finished runs."""

import argparse

HELP = "delete finished runs with their events and logs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the names of the runs."""
    parser.add_argument("run_names", metavar="RUN", nargs="+")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """Delete the runs, or none where one has not ended; return 1 where one is missing."""
    from dstack.cli import words
    from dstack.cli.clients import client_of, get_runs
    from dstack.errors import InvalidRequestError
    from dstack.kit.text import listed

    client = client_of(arguments)
    runs, missing = get_runs(client, arguments.run_names)
    for one in runs:
        if not one.status.is_finished():
            raise InvalidRequestError(
                f"The run `{one.name}` is {one.status}", hint=f"Stop it first with `dstack stop {one.name}`"
            )
    if not runs:
        return 1
    whose = "its" if len(runs) == 1 else "their"
    if not arguments.yes and not words.confirmed(
        f"Delete {listed(one.name for one in runs)} with {whose} events and logs?"
    ):
        return 1
    for one in runs:
        client.runs.delete(one.id)
        words.say(f"{one.name}: deleted")
    return int(missing > 0)
