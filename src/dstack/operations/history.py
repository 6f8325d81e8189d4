"""Events and logs: a page of them, or all that come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial

from dstack.domain.objects import Run
from dstack.errors import ForbiddenError, ResourceNotExistsError, UnauthorizedError
from dstack.logs.base import Part
from dstack.operations.context import Action, Context, authorize
from dstack.operations.presenting import event_view, run_view
from dstack.operations.runs import get_run, run_of
from dstack.protocol.jobs import no_job_text
from dstack.protocol.views import EventPage, EventView, RunView
from dstack.store import events, objects
from dstack.store.events import Event
from dstack.store.tx import Tx
from dstack.store.users import Project, User

EVENTS_KEY = "events"
"""The key of the event stream in `Signals`."""

CHUNK_BYTES = 256 << 10
EVENTS_AT_ONCE = 200
BEAT_S = 15.0
"""The time between two signs of life of a stream of events, and between two checks that a stream may go on."""


async def list_events(
    context: Context, user: User, project: str, *, run: str | None, after: int, limit: int
) -> EventPage:
    """Lines of history with higher numbers than `after`."""
    scope = await context.db.read(lambda tx: _scope_of(tx, user, project, run))
    return await _page(context, scope, after, limit)


@dataclass(frozen=True, slots=True)
class _Scope:
    """The events of a project, or of one run in it."""

    project: Project
    run_id: str | None
    sees_shared: bool
    """Whether the events of machines that belong to no project are among them."""


def _scope_of(tx: Tx, user: User, project: str, run: str | None) -> _Scope:
    caller = authorize(tx, user, project, Action.READ)
    run_id = run_of(tx, caller, run).id if run else None
    return _Scope(caller.project, run_id, sees_shared=caller.user.is_admin)


async def _page(context: Context, scope: _Scope, after: int, limit: int) -> EventPage:
    def read(tx: Tx) -> list[Event]:
        return events.list_after(
            tx, scope.project.id, after, run_id=scope.run_id, limit=limit, shared=scope.sees_shared
        )

    views = [event_view(event, scope.project.name) for event in await context.db.read(read)]
    return EventPage(events=views, cursor=views[-1].seq if views else after)


def _exists(run_id: str, tx: Tx) -> bool:
    return objects.find_run(tx, run_id) is not None


def _shown(context: Context, run_id: str, tx: Tx) -> RunView | None:
    run = objects.find_run(tx, run_id)
    return None if run is None else run_view(tx, run, context.why_waiting)


class Pass:
    """A caller's permission to follow a stream, which is checked again while the stream is open."""

    def __init__(self, context: Context, user: User, project: Project) -> None:
        self._context = context
        self._user = user
        self._project = project
        self._now = asyncio.get_running_loop().time
        self._checked_at = self._now()

    @property
    def rest_s(self) -> float:
        """The time until the next check, in seconds. A stream that waits for longer would end late."""
        return max(0.0, self._checked_at + BEAT_S - self._now())

    async def is_valid(self) -> bool:
        """Return whether the caller may go on. Asks the database once in `BEAT_S`."""
        if self.rest_s > 0:
            return True
        try:
            caller = await self._context.db.read(lambda tx: authorize(tx, self._user, self._project.name, Action.READ))
        except (UnauthorizedError, ForbiddenError, ResourceNotExistsError):
            return False
        if caller.project != self._project:  # it was deleted, and another one has the name
            return False
        self._checked_at = self._now()
        return True


class Sign(Enum):
    """A sign between two lines of history."""

    ALIVE = "alive"
    CHANGED = "changed"
    """Something about the run is new that is not worth a line."""


@dataclass(frozen=True, slots=True)
class EventStream:
    """The events that a caller follows."""

    scope: _Scope
    allowed: Pass


async def open_events(context: Context, user: User, project: str, run: str | None) -> EventStream:
    """Return the events of a project, or only those of a run, for `follow_events`.

    Raises:
        ResourceNotExistsError: there is no such project or run.
    """
    scope = await context.db.read(lambda tx: _scope_of(tx, user, project, run))
    return EventStream(scope, Pass(context, user, scope.project))


async def follow_events(
    context: Context, stream: EventStream, *, after: int, shows_run: bool = False
) -> AsyncIterator[EventView | RunView | Sign]:
    """Yield every line after `after`, and signs in between: one at least every `BEAT_S` seconds.

    Ends when the run is deleted, or when the caller may no longer read. In the stream of a run, a change without a line
    is a sign too.

    Args:
        shows_run: yield the run as it is by then before each page of its lines, and instead of that sign.
    """
    scope, allowed = stream.scope, stream.allowed
    with context.signals.subscribe(EVENTS_KEY, *filter(None, [scope.run_id])) as changed:
        while await allowed.is_valid():
            heard = changed.take()
            page = await _page(context, scope, after, EVENTS_AT_ONCE)
            shown = None
            if shows_run and scope.run_id and (page.events or scope.run_id in heard):
                shown = await context.db.read(partial(_shown, context, scope.run_id))
            if shown is not None:
                yield shown
            for event in page.events:
                yield event
            after = page.cursor
            if not page.events:
                # The run may have been deleted if it changed, or after a silence.
                if scope.run_id and heard != {EVENTS_KEY} and not await context.db.read(partial(_exists, scope.run_id)):
                    return
                yield Sign.CHANGED if scope.run_id in heard and shown is None else Sign.ALIVE
                with suppress(TimeoutError):
                    async with asyncio.timeout(allowed.rest_s):
                        await changed.wait()


@dataclass(frozen=True, slots=True)
class LogCursor:
    """The log of a job, and the offset to begin at.

    `offset` counts through all attempts of the job, one after the other, or within the requested one.
    """

    run_id: str
    allowed: Pass
    replica: int
    node: int
    attempt: int | None
    stream: str
    offset: int
    """Of the first byte to be read that there is."""
    lost_bytes: int
    """How much is lost right before it, of what was asked for."""
    end: int
    """Where the log ends just now."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The requested log of a run, and the offset to begin at."""

    run: str
    replica: int
    node: int
    stream: str
    offset: int
    start: datetime | None
    """Instead of `offset`: skip what was printed before."""
    attempt: int | None = None
    """Only this attempt of the job; all of them without it."""


async def open_log(context: Context, user: User, project: str, query: LogQuery) -> LogCursor:
    """Return the position to begin to read at.

    Raises:
        ResourceNotExistsError: the run is missing, or it has no such job or attempt.
    """

    def read(tx: Tx) -> tuple[Run, list[str]]:
        run = get_run(tx, user, project, query.run, Action.READ)
        attempts, _ = _attempts(tx, run.id, query.replica, query.node, query.attempt)
        if not attempts:
            raise ResourceNotExistsError(_missing_text(tx, run, query))
        return run, attempts

    run, job_ids = await context.db.read(read)
    offset, first, end = await asyncio.to_thread(_find, context, job_ids, query)
    allowed = Pass(context, user, Project(run.project_id, project))
    return LogCursor(
        run.id, allowed, query.replica, query.node, query.attempt, query.stream, first, first - offset, end
    )


def _attempts(tx: Tx, run_id: str, replica: int, node: int, attempt: int | None) -> tuple[list[str], bool]:
    """Return the ids of the jobs whose logs are read, and whether nothing more can come."""
    if attempt is None:
        return objects.attempts_of(tx, run_id, replica, node)
    return objects.attempt_of(tx, run_id, replica, node, attempt)


def _missing_text(tx: Tx, run: Run, query: LogQuery) -> str:
    jobs = {(job.replica, job.node): job for job in objects.jobs_of_run(tx, run.id)}
    if (job := jobs.get((query.replica, query.node))) is not None:
        return f"The {job.title} of `{run.name}` has no attempt {query.attempt}"
    return no_job_text(run.name, query.replica, query.node, jobs)


def _find(context: Context, job_ids: list[str], query: LogQuery) -> tuple[int, int, int]:
    """Return the requested offset, the offset of the first stored byte, and the end."""
    offset = query.offset
    if query.start is not None:
        offset = _offset_at(context, job_ids, query.stream, query.start)
    first = _read(context, job_ids, query.stream, offset, limit=0).offset
    return offset, first, sum(context.logs.size(job_id, query.stream) for job_id in job_ids)


def _offset_at(context: Context, job_ids: list[str], stream: str, start: datetime) -> int:
    base = 0
    for job_id in job_ids:
        size = context.logs.size(job_id, stream)
        offset = context.logs.offset_at(job_id, stream, start)
        if offset < size or job_id == job_ids[-1]:
            return base + offset
        base += size
    return base


async def read_log(context: Context, cursor: LogCursor, *, follow: bool) -> AsyncIterator[Part]:
    """Yield the bytes from the cursor on; with `follow` until the run, or the one attempt, has ended and all are given.

    Ends early if the caller may no longer read.

    Bytes between the end of one part and the offset of the next are lost.
    """
    offset, attempts, has_ended = cursor.offset, list[str](), False
    heard = {cursor.run_id}

    def attempts_of(tx: Tx) -> tuple[list[str], bool]:
        return _attempts(tx, cursor.run_id, cursor.replica, cursor.node, cursor.attempt)

    with context.signals.subscribe(cursor.run_id) as changes:
        while await cursor.allowed.is_valid():
            if cursor.run_id in heard:
                attempts, has_ended = await context.db.read(attempts_of)
                if not attempts:
                    return  # the run was deleted meanwhile
                changes.add(*attempts)
            while (part := await asyncio.to_thread(_read, context, attempts, cursor.stream, offset)) != (offset, b""):
                offset = part.offset + len(part.data)
                yield part
                if not await cursor.allowed.is_valid():
                    return
            if has_ended or not follow:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(cursor.allowed.rest_s):
                    await changes.wait()
            heard = changes.take()


def _read(context: Context, job_ids: list[str], stream: str, offset: int, limit: int = CHUNK_BYTES) -> Part:
    """The first bytes at `offset` or after it of all attempts together; each but the last has its final size."""
    *earlier, last = job_ids
    base = 0
    for job_id in earlier:
        size = context.logs.size(job_id, stream)
        if offset < base + size:
            part = context.logs.read(job_id, stream, max(0, offset - base), limit)
            if part.offset < size:
                return Part(base + part.offset, part.data)
        base += size
    part = context.logs.read(last, stream, max(0, offset - base), limit)
    return Part(max(offset, base + part.offset), part.data)
