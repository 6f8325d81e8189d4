"""`dstack ps`: the runs."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from dstack.api import Client
    from dstack.protocol.views import AttemptView, JobView, RunView

HELP = "show runs"
HEADERS = ("NAME", "BACKEND", "RESOURCES", "PRICE", "STATUS", "SUBMITTED", "WHY")
REVISION = "REVISION"
OF_SERVICES = ("REPLICAS", "REQ/S", "IN FLIGHT", "ERRORS", "P50", "P95")
"""More columns where there are services: ready replicas, and the traffic of the last minute. Errors are all so far."""
URL_OR_WHY = "URL, WHY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the choice of runs and the format."""
    parser.add_argument("-a", "--all", action="store_true", help="show finished runs too")
    parser.add_argument("-w", "--watch", action="store_true", help="refresh when something changes")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show revisions, earlier attempts and the traffic of services too"
    )
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


def table_of(views: "list[RunView]", now: "datetime", *, verbose: bool = False) -> str:
    """Return the table of runs.

    With `verbose`, each has its revision, and services have their replicas and traffic. Below a run are its earlier
    attempts, and jobs that were made from an earlier revision.
    """
    from dstack.cli import words

    has_services = any(view.service is not None for view in views)
    headers = [*HEADERS[:-1], URL_OR_WHY if has_services else HEADERS[-1]]
    if verbose:
        headers = [headers[0], REVISION, *headers[1:-1], *(OF_SERVICES if has_services else ()), headers[-1]]
    rows: list[tuple[str, ...]] = []
    for view in views:
        rows.append(_row_of(view, now, headers))
        for job in view.jobs if verbose else ():
            rows += [_attempt_row(f"{job.replica}/{job.node}", tried, now, headers) for tried in job.earlier]
            if _is_outdated(job, view):
                rows.append(_attempt_row(f"{job.replica}/{job.node}", job, now, headers))
    return words.table(headers, rows, is_fitted=True, kept=("STATUS",))


def _row_of(view: "RunView", now: "datetime", headers: "list[str]") -> tuple[str, ...]:
    from dstack.cli import words

    instance = next((job.instance for job in view.jobs if job.instance), None)
    why = words.why(view.status, view.reason, view.detail)
    if view.service is not None and not view.status.is_finished():
        why = why or view.service.waits_for
    cells = {
        "NAME": view.name,
        REVISION: _number(view.revision),
        "BACKEND": words.backend_of(instance) if instance else "",
        "RESOURCES": instance.resources if instance else "",
        "PRICE": words.price(instance.price) if instance else "",
        "STATUS": view.status.value,
        "SUBMITTED": words.age(view.submitted_at, now),
        "WHY": why,
        URL_OR_WHY: f"{view.service_url} ({why})" if view.service_url and why else view.service_url or why,
        **_traffic_of(view),
    }
    return tuple(cells.get(header, "") for header in headers)


def _is_outdated(job: "JobView", view: "RunView") -> bool:
    """Return whether a job is one of an earlier revision. A change in place leaves living replicas as they are."""
    stays = view.service is not None and not view.service.is_rolling and not job.status.is_finished()
    return job.revision != view.revision and not stays


def _traffic_of(view: "RunView") -> dict[str, str]:
    from dstack.cli import serving

    if view.service is None or view.service.traffic is None:
        return {}
    traffic = view.service.traffic
    return {
        "REPLICAS": f"{view.replicas_ready or 0}/{view.replicas_asked or 0}",
        "REQ/S": serving.rate(traffic.requests_per_s),
        "IN FLIGHT": f"{traffic.in_flight}",
        "ERRORS": f"{traffic.errors}",
        "P50": serving.latency(traffic.latency_p50_s),
        "P95": serving.latency(traffic.latency_p95_s),
    }


def _attempt_row(job: str, tried: "AttemptView | JobView", now: "datetime", headers: "list[str]") -> tuple[str, ...]:
    from dstack.cli import words

    cells = {
        "NAME": f"  {job} attempt {tried.attempt}",
        REVISION: _number(tried.revision),
        "STATUS": tried.status.value,
        "SUBMITTED": words.age(tried.submitted_at, now),
        headers[-1]: words.why(tried.status, tried.reason, tried.detail),
    }
    return tuple(cells.get(header, "") for header in headers)


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
        words.show(table_of(views, SystemClock().now(), verbose=arguments.verbose))
    return max((view.cursor for view in views), default=0)
