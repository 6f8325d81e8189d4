"""`dstack ps`: the runs."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from dstack.api import Client
    from dstack.protocol.services import ServiceView
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
    attempts, and jobs that were made from an earlier revision. Below a service are its scaling and its cost. Replicas
    that its traffic did not need any more are left out.
    """
    from dstack.cli import words

    has_services = any(view.service is not None for view in views)
    headers = [*HEADERS[:-1], URL_OR_WHY if has_services else HEADERS[-1]]
    if verbose:
        headers = [headers[0], REVISION, *headers[1:-1], *(OF_SERVICES if has_services else ()), headers[-1]]
    rows: list[tuple[str, ...]] = []
    for view in views:
        rows.append(_row_of(view, now, headers))
        if verbose:
            rows += [_line(name, text, headers) for name, text in _facts_of(view, now)]
            rows += [_attempt_row(job, tried, now, headers) for job, tried in _shown_attempts(view)]
    return words.table(headers, rows, is_fitted=True, kept=("STATUS",))


def _row_of(view: "RunView", now: "datetime", headers: "list[str]") -> tuple[str, ...]:
    from dstack.cli import words

    instance = next((job.instance for job in view.jobs if job.instance and _is_wanted(job)), None)
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


def _facts_of(view: "RunView", now: "datetime") -> "Iterator[tuple[str, str]]":
    """Yield what a service has in lines of its own: the names of the lines and their texts."""
    from dstack.cli import serving

    service = view.service
    if service is not None and service.scaling is not None and not view.status.is_finished():
        yield "scaling", serving.decision_text(view.replicas_asked or 0, service.scaling, now)
    if service is not None and service.cost is not None:
        yield "cost", serving.cost_text(service.cost)


def _line(name: str, text: str, headers: "list[str]") -> tuple[str, ...]:
    cells = {"NAME": f"  {name}", headers[-1]: text}
    return tuple(cells.get(header, "") for header in headers)


def _shown_attempts(view: "RunView") -> "Iterator[tuple[JobView, AttemptView | JobView]]":
    """Yield the jobs of a run with those of their attempts that have lines of their own."""
    for job in view.jobs:
        tries: list[AttemptView | JobView] = [*job.earlier, *([job] if _is_outdated(job, view) else [])]
        yield from ((job, tried) for tried in tries if _is_wanted(tried))


def _is_wanted(job: "AttemptView | JobView") -> bool:
    """Return whether a job has not ended because the traffic of its service needed fewer."""
    from dstack.protocol.statuses import JobReason

    return job.reason is not JobReason.SCALED_DOWN


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
        "REPLICAS": _replicas_of(view, view.service),
        "REQ/S": serving.rate(traffic.requests_per_s),
        "IN FLIGHT": serving.in_flight_text(traffic),
        "ERRORS": f"{traffic.errors}",
        "P50": serving.latency(traffic.latency_p50_s),
        "P95": serving.latency(traffic.latency_p95_s),
    }


def _replicas_of(view: "RunView", service: "ServiceView") -> str:
    """Return how many replicas are ready, of those that are needed now.

    Examples:
        `1/2`, `1/2 of 0..4`, `0 of 0..4`
    """
    from dstack.cli import serving

    ready, asked = view.replicas_ready or 0, view.replicas_asked or 0
    if service.scaling is None:
        return f"{ready}/{asked}"
    return f"{f'{ready}/{asked}' if asked else ready} of {serving.range_text(service.scaling)}"


def _attempt_row(
    job: "JobView", tried: "AttemptView | JobView", now: "datetime", headers: "list[str]"
) -> tuple[str, ...]:
    from dstack.cli import words

    cells = {
        "NAME": f"  {job.replica}/{job.node} attempt {tried.attempt}",
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
