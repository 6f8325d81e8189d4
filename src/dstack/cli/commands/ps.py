"""`dstack ps`: the runs."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from dstack.api import Client
    from dstack.protocol.views import AttemptView, JobView, RunView

HELP = "show runs"
HEADERS = ("NAME", "BACKEND", "RESOURCES", "PRICE", "STATUS", "SUBMITTED", "WHY")
WITH_REVISION = ("NAME", "REVISION", *HEADERS[1:])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the choice of runs and the format."""
    parser.add_argument("-a", "--all", action="store_true", help="show finished runs too")
    parser.add_argument("-w", "--watch", action="store_true", help="refresh when something changes")
    parser.add_argument("-v", "--verbose", action="store_true", help="show revisions and earlier attempts too")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the runs, once or until Ctrl-C."""
    from dstack.cli.clients import client_of

    client = client_of(arguments)
    shown = _show(client, arguments)
    if arguments.watch:
        for event in client.events.follow(after=shown):
            if event.status is not None and event.seq > shown:
                shown = max(_show(client, arguments), event.seq)
    return 0


def rows_of(views: "list[RunView]", now: "datetime", *, verbose: bool = False) -> list[tuple[str, ...]]:
    """Return the table's rows.

    With `verbose`, each has its revision. Below a run are its earlier attempts, and jobs that were made from an earlier
    revision.
    """
    rows: list[tuple[str, ...]] = []
    for view in views:
        row = _row_of(view, now)
        rows.append((row[0], _number(view.revision), *row[1:]) if verbose else row)
        for job in view.jobs if verbose else ():
            rows += [_attempt_row(f"{job.replica}/{job.node}", tried, now) for tried in job.earlier]
            if job.revision != view.revision:
                rows.append(_attempt_row(f"{job.replica}/{job.node}", job, now))
    return rows


def _row_of(view: "RunView", now: "datetime") -> tuple[str, ...]:
    from dstack.cli import words

    instance = next((job.instance for job in view.jobs if job.instance), None)
    return (
        view.name,
        words.backend_of(instance) if instance else "",
        instance.resources if instance else "",
        words.price(instance.price) if instance else "",
        view.status.value,
        words.age(view.submitted_at, now),
        words.why(view.status, view.reason, view.detail),
    )


def _attempt_row(job: str, tried: "AttemptView | JobView", now: "datetime") -> tuple[str, ...]:
    from dstack.cli import words

    why = words.why(tried.status, tried.reason, tried.detail)
    age = words.age(tried.submitted_at, now)
    return (f"  {job} attempt {tried.attempt}", _number(tried.revision), "", "", "", tried.status.value, age, why)


def _number(revision: int | None) -> str:
    return "" if revision is None else f"{revision}"


def _show(client: "Client", arguments: argparse.Namespace) -> int:
    """Show the runs; return the number of the last event that they include."""
    import sys

    from dstack.cli import words
    from dstack.kit.clock import SystemClock

    views = [one.view for one in client.runs.list(all=arguments.all)]
    if arguments.json:
        words.show_json(views)
    else:
        if arguments.watch and sys.stdout.isatty():
            sys.stdout.write("\x1b[2J\x1b[H")
            sys.stdout.flush()  # before a line on stderr
        if not arguments.all and views and views[0].status.is_finished():
            words.say("No run is active; the last one:")
        rows = rows_of(views, SystemClock().now(), verbose=arguments.verbose)
        words.show(words.table(WITH_REVISION if arguments.verbose else HEADERS, rows, is_fitted=True))
    return max((view.cursor for view in views), default=0)
