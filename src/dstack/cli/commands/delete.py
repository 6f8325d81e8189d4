"""`dstack delete`: delete finished runs."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from dstack.api import Run

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
    from dstack.kit.clock import SystemClock

    client = client_of(arguments)
    runs, missing = get_runs(client, arguments.run_names)
    for one in runs:
        if not one.status.is_finished():
            raise InvalidRequestError(
                f"The run `{one.name}` is {one.status}", hint=f"Stop it first with `dstack stop {one.name}`"
            )
    if not runs:
        return 1
    if not arguments.yes and not words.confirmed(
        question_about(runs, SystemClock().now()), if_not="Nothing was deleted"
    ):
        return 1
    for one in runs:
        client.runs.delete(one.id)
        earlier = client.runs.get(one.name)
        words.say(f"{one.name}: deleted" + ("; an earlier run of that name remains" if earlier is not None else ""))
    return int(missing > 0)


def question_about(runs: "Sequence[Run]", now: "datetime") -> str:
    """Return the question; several runs may have one name, so each is named with its time."""
    from dstack.cli import words

    names = " and ".join(f"`{one.name}`, submitted {words.clock(one.view.submitted_at, now)}," for one in runs)
    return f"Delete {names} with {'its' if len(runs) == 1 else 'their'} events and logs?"
