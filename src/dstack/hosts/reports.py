"""Reports of one agent that wait to be stored, and the jobs of which they are taken."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from dstack.protocol.agent import JobReport, Point

STRANGERS_MAX = 500
"""Reports of so many jobs that are not on record at the instance are taken on one connection.

Each such job is ended and forgotten there, as after the loss of a database. The next connection has the next ones.
"""
LAYERS_MAX = 512
"""So often a layer of a job's image becomes complete, each time with an event. No image has as many."""
POINTS_PER_MINUTE_MAX = 500
"""Of each job. An agent measures six a minute, and sends those of the last hour after a break."""


class Reports:
    """Reports of one agent that are not stored yet; of one job only the latest counts."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.has_left_out = False
        """Whether jobs were left out on this connection because they are strangers, and too many."""
        self._known: set[str] = set()
        self._strangers: set[str] = set()
        self._waiting: dict[str, JobReport] = {}
        self._layers: dict[str, tuple[frozenset[str], int]] = {}
        """Of each job whose image is pulled: the layers that are complete, and how often one has become so."""
        self._points = 0

    def begin(self, known: Collection[str]) -> None:
        """Begin a connection.

        Args:
            known: the jobs on the instance.
        """
        self._known = set(known)
        self._strangers.clear()
        self._waiting.clear()
        self._layers = {job_id: one for job_id, one in self._layers.items() if job_id in self._known}
        self.has_left_out = False
        self.begin_minute()

    def begin_minute(self) -> None:
        """Take points again."""
        self._points = 0

    def add(self, job_id: str) -> None:
        """Take reports of a job that the server starts."""
        self._known.add(job_id)

    def remove(self, job_id: str) -> None:
        """Forget a job that the agent has forgotten."""
        self._known.discard(job_id)
        self._strangers.discard(job_id)
        self._layers.pop(job_id, None)

    def take_in(self, report: JobReport) -> bool:
        """Hold a report until it is stored. Returns whether it was taken."""
        if (taken := self._taken(report)) is None:
            return False
        self._waiting[report.job_id] = taken
        self.came.set()
        return True

    def select(self, reports: Iterable[JobReport]) -> list[JobReport]:
        """Return those of a welcome that are taken."""
        return [taken for report in reports if (taken := self._taken(report)) is not None]

    def take_out(self) -> list[JobReport]:
        """Return what waits."""
        latest, self._waiting = self._waiting, {}
        return list(latest.values())

    def points_taken(self, points: Mapping[str, Sequence[Point]]) -> dict[str, Sequence[Point]]:
        """Return the points that are taken: of the jobs on the instance, and not too many a minute."""
        known = {job_id: some for job_id, some in points.items() if job_id in self._known}
        self._points += sum(map(len, known.values()))
        return known if self._points <= POINTS_PER_MINUTE_MAX * len(self._known) else {}

    def _taken(self, report: JobReport) -> JobReport | None:
        """Return as much of a report as is held. Of a stranger only its state matters."""
        job_id = report.job_id
        if job_id in self._known:
            return self._with_layers_bounded(report)
        if job_id not in self._strangers and len(self._strangers) >= STRANGERS_MAX:
            self.has_left_out = True
            return None
        self._strangers.add(job_id)
        return JobReport(job_id, report.state)

    def _with_layers_bounded(self, report: JobReport) -> JobReport:
        ready = frozenset(layer.id for layer in report.layers if layer.ready)
        if not ready and report.job_id not in self._layers:
            return report
        before, count = self._layers.get(report.job_id, (frozenset(), 0))
        count += len(ready - before)
        self._layers[report.job_id] = ready, count
        return report if count <= LAYERS_MAX else replace(report, layers=())
