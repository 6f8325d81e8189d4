"""`dstack metrics`: resource usage of a run's jobs, and the traffic of a service."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from dstack.api import Run
    from dstack.cli.charts import Draw, Values
    from dstack.protocol.metrics import MetricsView, TrafficHistoryView, TrafficPointView
    from dstack.protocol.statuses import JobStatus

HELP = "show the usage of a run's jobs, and the requests of a service"
OVER_TIME = "OVER TIME"
HEADERS = ("", "NOW", "OF", OVER_TIME, "MIN", "AVG", "MAX", "")
OF_TRAFFIC = ("", "NOW", OVER_TIME, "MIN", "AVG", "MAX")
CHART_WIDTH = (12, 60)
"""The least and the most columns of a chart."""

REFRESH_S = 10.0
"""The interval between points."""
FIRST_REFRESH_S = 2.0
"""The interval until there are two points."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run and the format."""
    parser.add_argument("run_name", metavar="RUN")
    parser.add_argument("-w", "--watch", action="store_true", help="refresh every ten seconds until the run ends")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the usage of each job, once or until the run has ended. Replicas that were not needed any more have none."""
    from dstack.cli.clients import client_of, get_run
    from dstack.cli.following import Which, wait_until_begun
    from dstack.protocol.statuses import JobReason

    one = get_run(client_of(arguments), arguments.run_name)
    if arguments.watch:
        wait_until_begun(Which(one))
    while True:
        jobs = [job for job in one.view.jobs if job.reason is not JobReason.SCALED_DOWN]
        views = [one.metrics(replica_num=job.replica, job_num=job.node) for job in jobs]
        traffic = None if one.view.service is None else one.traffic()
        _show(one, [job.status for job in jobs], views, traffic, arguments)
        if not arguments.watch or one.status.is_finished():
            return 0
        has_points = all(len(view.points) > 1 for view in views)
        pause(REFRESH_S if has_points else FIRST_REFRESH_S)
        one.refresh()


def pause(seconds: float) -> None:
    """Wait until the next refresh.

    Raises:
        BrokenPipeError: the reader of stdout has closed it.
    """
    import sys

    from dstack.kit import terminals

    if terminals.reader_leaves(sys.stdout, seconds):
        raise BrokenPipeError


def _show(
    one: "Run",
    statuses: "list[JobStatus]",
    views: "list[MetricsView]",
    traffic: "TrafficHistoryView | None",
    arguments: argparse.Namespace,
) -> None:
    import shutil
    import sys

    from dstack.cli import words
    from dstack.cli.charts import blocks_for

    if arguments.json:
        words.show_json(views if traffic is None else {"traffic": traffic, "jobs": views})
        return
    columns, blocks = shutil.get_terminal_size().columns, blocks_for(sys.stdout)
    blocks_of_text = [] if traffic is None else [block_of_traffic(one.name, one.status.value, traffic, columns, blocks)]
    blocks_of_text += [
        block(f"{one.name} {view.replica}/{view.node}", status.value, view, columns, blocks)
        for status, view in zip(statuses, views, strict=True)
    ]
    text = "\n\n".join(blocks_of_text)
    words.show(f"\x1b[H\x1b[J{text}" if arguments.watch and sys.stdout.isatty() else text)


def block(name: str, status: str, view: "MetricsView", columns: int, blocks: str) -> str:
    """Return the lines of one job: CPU, memory and each GPU.

    Args:
        columns: the terminal's width.
        blocks: the characters for charts.
    """
    if not view.points:
        return f"{name}: {status}, no metrics"
    span = (view.points[0].at, view.points[-1].at)
    return _block(f"{name}: {status}", span, HEADERS, lambda draw: rows_of(view, draw), columns, blocks)


def block_of_traffic(name: str, status: str, view: "TrafficHistoryView", columns: int, blocks: str) -> str:
    """Return the lines of a service: its requests, also those that wait, and its replicas. Arguments as for `block`."""
    if not view.points:
        return f"{name}: {status}, no requests yet"
    span = (view.points[0].at, view.points[-1].at)
    return _block(f"{name}: {status}", span, OF_TRAFFIC, lambda draw: rows_of_traffic(view, draw), columns, blocks)


def _block(
    title: str,
    span: "tuple[datetime, datetime]",
    headers: tuple[str, ...],
    rows: "Callable[[Draw], list[tuple[str, ...]]]",
    columns: int,
    blocks: str,
) -> str:
    from dstack.cli import words
    from dstack.cli.charts import chart

    without = words.table(headers, rows(lambda values, top: ""))
    width = columns - max(map(len, without.splitlines())) + len(OVER_TIME)
    width = min(max(width, CHART_WIDTH[0]), CHART_WIDTH[1])
    table = words.table(headers, rows(lambda values, top: chart(values, width, top, blocks)))
    first, last = (at.astimezone() for at in span)
    return f"{title}, {first:%H:%M:%S} to {last:%H:%M:%S}\n{table}"


def rows_of_traffic(view: "TrafficHistoryView", draw: "Draw") -> list[tuple[str, ...]]:
    """Return the table's rows of a service; `draw` as for `rows_of`."""
    from dstack.cli.serving import latency, rate

    rows: list[tuple[str, Callable[[TrafficPointView], float | None], Callable[[float], str]]] = [
        ("requests/s", lambda point: point.requests_per_s, rate),
        ("errors/s", lambda point: point.errors_per_s, rate),
        ("in flight", lambda point: point.in_flight, "{:.0f}".format),
        ("waiting", lambda point: point.held, "{:.0f}".format),
        ("p50", lambda point: point.latency_p50_s, latency),
        ("p95", lambda point: point.latency_p95_s, latency),
        ("replicas", lambda point: point.replicas, "{:.3g}".format),
    ]
    cells = []
    for name, value_of, text in rows:
        values = [(point.at.timestamp(), value_of(point)) for point in view.points]
        name, now, _, *rest = _row(name, "", values, text, draw, 0.0)
        cells.append((name, now, *rest, *[""] * (len(OF_TRAFFIC) - 2 - len(rest))))
    return cells


def rows_of(view: "MetricsView", draw: "Draw") -> list[tuple[str, ...]]:
    """Return the table's rows.

    Args:
        draw: makes a chart of values, given the value that fills a column.
    """
    from dstack.kit.text import memory_text

    cpu = [(point.at.timestamp(), point.cpu_cores) for point in view.points]
    memory = [(point.at.timestamp(), point.memory_mib) for point in view.points]
    cores = "" if view.cpu_cores is None else f"{view.cpu_cores:g} cores"
    whole = "" if view.memory_mib is None else memory_text(view.memory_mib)
    rows = [_row("cpu", cores, cpu, "{:.2f}".format, draw, 1.0), _row("memory", whole, memory, memory_text, draw, 0.0)]
    for index, card in enumerate(view.gpus):
        of_card = [(point.at.timestamp(), point.gpus[index]) for point in view.points if index < len(point.gpus)]
        busy = [(at, gpu.utilization_percent) for at, gpu in of_card]
        used = of_card[-1][1].memory_mib if of_card else None
        used_text = f"memory {'?' if used is None else memory_text(used)} of {memory_text(card.memory_mib)}"
        rows.append([*_row(f"gpu {index} {card.name}", "100%", busy, "{:.0f}%".format, draw, 100.0), used_text])
    return [(*cells, *[""] * (len(HEADERS) - len(cells))) for cells in rows]


def _row(
    name: str,
    of: str,
    values: "Values",
    text: Callable[[float], str],
    draw: "Draw",
    least_top: float,
) -> list[str]:
    """Return one row; its chart reaches up to the largest value, at least `least_top`."""
    known = [value for _, value in values if value is not None]
    if not known:
        return [name, "?", of]
    now = values[-1][1]
    figures = (min(known), sum(known) / len(known), max(known))
    return [name, "?" if now is None else text(now), of, draw(values, max(*known, least_top)), *map(text, figures)]
