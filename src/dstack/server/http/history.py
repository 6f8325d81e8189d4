"""Events, logs, metrics and traffic over HTTP: pages, byte streams and server-sent events with cursors."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import Response, StreamingResponse

from dstack.operations import history, measuring
from dstack.operations.context import Context
from dstack.operations.history import LogCursor, LogQuery, Sign
from dstack.protocol import routes
from dstack.protocol.requests import COUNT_MAX
from dstack.protocol.views import EventView, RunView
from dstack.server.http.calls import At, By, json_of, text_of
from dstack.server.http.routing import add

router = APIRouter()

SSE = "text/event-stream"

Accept = Annotated[str, Header()]
LastEventId = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=COUNT_MAX)]
Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]


class EventParams(BaseModel):
    """The requested events."""

    run: str | None = None
    after: Count = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000
    shows_run: bool = False


@add(router, routes.LIST_EVENTS)
async def list_events(
    context: At,
    user: By,
    project: str,
    params: Annotated[EventParams, Query()],
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """Return a page of events, or stream all events that follow."""
    run, after = params.run, last_event_id or params.after
    if SSE not in accept:
        return json_of(await history.list_events(context, user, project, run=run, after=after, limit=params.limit))
    stream = await history.open_events(context, user, project, run)
    events = history.follow_events(context, stream, after=after, shows_run=params.shows_run)
    return StreamingResponse(_sse_of_events(events), media_type=SSE)


async def _sse_of_events(events: AsyncIterator[EventView | RunView | Sign]) -> AsyncIterator[str]:
    async for event in events:
        match event:
            case Sign.ALIVE:
                yield ": alive\n\n"
            case Sign.CHANGED:
                yield f"{routes.CHANGED}\n\n"
            case RunView():
                yield f"event: {routes.RUN_EVENT}\ndata: {text_of(event)}\n\n"
            case EventView():
                yield f"id: {event.seq}\ndata: {text_of(event)}\n\n"


class LogParams(BaseModel):
    """The query of a log."""

    replica: Count = 0
    node: Count = 0
    attempt: Annotated[int, Field(ge=1, le=COUNT_MAX)] | None = None
    stream: Literal["job", "agent"] = "job"
    offset: Count = 0
    start_time: AwareDatetime | None = None
    follow: bool = False


@add(router, routes.READ_LOGS)
async def read_logs(
    context: At,
    user: By,
    project: str,
    run: str,
    params: Annotated[LogParams, Query()],
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """Return or stream the bytes of a log, from a cursor on."""
    offset = last_event_id or params.offset
    start = None if last_event_id else params.start_time
    query = LogQuery(run, params.replica, params.node, params.stream, offset, start, params.attempt)
    cursor = await history.open_log(context, user, project, query)
    headers = {
        "Dstack-Log-Offset": str(cursor.offset),
        "Dstack-Log-Lost": str(cursor.lost_bytes),
        "Dstack-Log-End": str(cursor.end),
    }
    if SSE in accept:
        return StreamingResponse(sse_of_log(context, cursor, follow=params.follow), media_type=SSE, headers=headers)
    chunks = bytes_of_log(context, cursor, follow=params.follow)
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)


class MetricsParams(BaseModel):
    """The requested metrics of a run."""

    replica: Count = 0
    node: Count = 0
    start_time: AwareDatetime | None = None


@add(router, routes.READ_METRICS)
async def read_metrics(
    context: At, user: By, project: str, run: str, params: Annotated[MetricsParams, Query()]
) -> Response:
    """Return the resources that one job of a run used."""
    return json_of(
        await measuring.read_metrics(
            context, user, project, run, replica=params.replica, node=params.node, start=params.start_time
        )
    )


@add(router, routes.READ_TRAFFIC)
async def read_traffic(
    context: At, user: By, project: str, run: str, start_time: AwareDatetime | None = None
) -> Response:
    """Return the requests of a service."""
    return json_of(await measuring.read_traffic(context, user, project, run, start=start_time))


async def bytes_of_log(context: Context, cursor: LogCursor, *, follow: bool) -> AsyncIterator[bytes]:
    """Return the log up to the first gap; the headers of the next response report the gap."""
    offset = cursor.offset
    async for part in history.read_log(context, cursor, follow=follow):
        if part.offset != offset:
            return
        offset += len(part.data)
        yield part.data


async def sse_of_log(context: Context, cursor: LogCursor, *, follow: bool) -> AsyncIterator[str]:
    """The log as server-sent events, gaps among them."""
    offset = cursor.offset
    if cursor.lost_bytes:
        yield _sse_of_gap(offset, cursor.lost_bytes)
    async for part in history.read_log(context, cursor, follow=follow):
        if part.offset != offset:
            yield _sse_of_gap(part.offset, part.offset - offset)
        offset = part.offset + len(part.data)
        yield f"id: {offset}\ndata: {base64.b64encode(part.data).decode('ascii')}\n\n"
    yield f"id: {offset}\nevent: end\ndata:\n\n"


def _sse_of_gap(offset: int, lost_bytes: int) -> str:
    return f"id: {offset}\nevent: gap\ndata: {lost_bytes}\n\n"
