"""Events, logs and metrics over HTTP: pages, byte streams and server-sent events with cursors."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import Response, StreamingResponse

from dstack.operations import history, measuring
from dstack.operations.context import Context
from dstack.operations.history import LogCursor, LogQuery
from dstack.protocol import routes
from dstack.protocol.views import EventView
from dstack.server.http.calls import At, By, json_of
from dstack.server.http.routing import add

router = APIRouter()

BEAT_S = 15.0
SSE = "text/event-stream"

Accept = Annotated[str, Header()]
LastEventId = Annotated[int | None, Header(alias="Last-Event-ID")]


@add(router, routes.LIST_EVENTS)
async def list_events(
    context: At,
    user: By,
    project: str,
    run: str | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """Lines of history: a page, or all that come."""
    page = await history.list_events(context, user, project, run=run, after=last_event_id or after, limit=limit)
    if SSE not in accept:
        return json_of(page)
    events = history.follow_events(context, user, project, run=run, after=last_event_id or after, beat_s=BEAT_S)
    return StreamingResponse(_sse_of_events(events), media_type=SSE)


async def _sse_of_events(events: AsyncIterator[EventView | None]) -> AsyncIterator[str]:
    async for event in events:
        yield ": alive\n\n" if event is None else f"id: {event.seq}\ndata: {event.model_dump_json()}\n\n"


class LogParams(BaseModel):
    """The query of a log."""

    replica: int = Field(default=0, ge=0)
    node: int = Field(default=0, ge=0)
    stream: Literal["job", "agent"] = "job"
    offset: int = Field(default=0, ge=0)
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
    """Log bytes, from a cursor on."""
    offset = last_event_id or params.offset
    start = None if last_event_id else params.start_time
    query = LogQuery(run, params.replica, params.node, params.stream, offset, start)
    cursor = await history.open_log(context, user, project, query)
    headers = {"Dstack-Log-Offset": str(cursor.offset)}
    if SSE in accept:
        return StreamingResponse(_sse_of_log(context, cursor, follow=params.follow), media_type=SSE, headers=headers)
    chunks = history.read_log(context, cursor, follow=params.follow)
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)


class MetricsParams(BaseModel):
    """Which metrics of a run."""

    replica: int = Field(default=0, ge=0)
    node: int = Field(default=0, ge=0)
    start_time: AwareDatetime | None = None


@add(router, routes.READ_METRICS)
async def read_metrics(
    context: At, user: By, project: str, run: str, params: Annotated[MetricsParams, Query()]
) -> Response:
    """What one job of a run used."""
    return json_of(
        await measuring.read_metrics(
            context, user, project, run, replica=params.replica, node=params.node, start=params.start_time
        )
    )


async def _sse_of_log(context: Context, cursor: LogCursor, *, follow: bool) -> AsyncIterator[str]:
    offset = cursor.offset
    async for chunk in history.read_log(context, cursor, follow=follow):
        offset += len(chunk)
        yield f"id: {offset}\ndata: {base64.b64encode(chunk).decode('ascii')}\n\n"
    yield f"id: {offset}\nevent: end\ndata:\n\n"
