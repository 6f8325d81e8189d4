"""A job's log is one, through all of its attempts, and what is lost of it is told wherever one begins to read."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from starlette.responses import StreamingResponse

from dstack.errors import ResourceNotExistsError
from dstack.logs.base import Part
from dstack.logs.gaps import Gap
from dstack.operations import history, projects, runs
from dstack.operations.context import Context
from dstack.operations.history import LogCursor, LogQuery, Sign
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.protocol.views import EventView, RunView
from dstack.server.http import history as history_over_http
from dstack.server.http.history import bytes_of_log, sse_of_log
from dstack.store import commits, events, users
from dstack.store.tx import Tx
from dstack.store.users import User
from tests.making import NOW, job, run

ADA = User(id="0-user", name="ada", is_admin=True)
QUERY = LogQuery("hello", replica=0, node=0, stream="job", offset=0, start=None)


@pytest.fixture
async def told(context: Context) -> Context:
    """A run that has ended after two attempts: `abc___g` and `__CDE`, with gaps for `_`."""

    def ended(tx: Tx) -> None:
        jobs = [job(id=f"{attempt}-job", attempt=attempt, version=0) for attempt in (1, 2)]
        commits.add_run(tx, run(finished_at=NOW), jobs, actor="user ada")

    await context.db.write(ended)
    logs = context.logs
    logs.append("1-job", "job", 0, 10.0, b"abc")
    logs.skip("1-job", "job", Gap(3, 6), 20.0)
    logs.append("1-job", "job", 6, 30.0, b"g")
    logs.append("2-job", "job", 0, 40.0, b"ABCDE")
    logs.drop("2-job", "job", 2)
    return context


async def opened(context: Context, offset: int = 0, start: datetime | None = None) -> LogCursor:
    return await history.open_log(context, ADA, "main", replace(QUERY, offset=offset, start=start))


async def test_gaps_lie_between_the_parts_of_all_attempts(told: Context) -> None:
    cursor = await opened(told)
    parts = [part async for part in history.read_log(told, cursor, follow=True)]
    assert parts == [Part(0, b"abc"), Part(6, b"g"), Part(9, b"CDE")]
    assert cursor.end == 12


@pytest.mark.parametrize(
    ("asked", "first", "lost", "data"),
    [
        (0, 0, 0, b"abc"),
        (2, 2, 0, b"c"),
        (3, 6, 3, b"g"),
        (5, 6, 1, b"g"),
        (7, 9, 2, b"CDE"),
        (10, 10, 0, b"DE"),
        (12, 12, 0, b""),
        (99, 99, 0, b""),
    ],
)
async def test_an_answer_begins_behind_a_gap_and_ends_before_the_next(
    told: Context, asked: int, first: int, lost: int, data: bytes
) -> None:
    cursor = await opened(told, asked)
    assert (cursor.offset, cursor.lost_bytes) == (first, lost)
    assert b"".join([chunk async for chunk in bytes_of_log(told, cursor, follow=False)]) == data


@pytest.mark.parametrize(("start", "first", "lost"), [(15.0, 6, 3), (25.0, 6, 0), (35.0, 9, 2), (50.0, 12, 0)])
async def test_a_start_time_leads_to_what_is_lost_too(told: Context, start: float, first: int, lost: int) -> None:
    cursor = await opened(told, start=datetime.fromtimestamp(start, UTC))
    assert (cursor.offset, cursor.lost_bytes) == (first, lost)


async def test_browsers_hear_of_gaps_as_events(told: Context) -> None:
    events = [event async for event in sse_of_log(told, await opened(told, 4), follow=False)]
    assert events == [
        "id: 6\nevent: gap\ndata: 2\n\n",
        "id: 7\ndata: Zw==\n\n",
        "id: 9\nevent: gap\ndata: 2\n\n",
        "id: 12\ndata: Q0RF\n\n",
        "id: 12\nevent: end\ndata:\n\n",
    ]


async def test_an_attempt_whose_end_is_lost_leads_to_the_next_one(told: Context) -> None:
    told.logs.drop("1-job", "job", 7)
    cursor = await opened(told)
    assert (cursor.offset, cursor.lost_bytes, cursor.end) == (9, 9, 12)


async def test_a_job_that_a_run_has_not_is_told_by_the_runs_name(told: Context) -> None:
    with pytest.raises(ResourceNotExistsError, match="The run `hello` has no job 3; it has only job 0"):
        await history.open_log(told, ADA, "main", replace(QUERY, run=run().id, node=3))


async def test_the_events_of_a_run_end_when_it_is_deleted(context: Context) -> None:
    def born(tx: Tx) -> None:
        commits.add_run(tx, run(status=RunStatus.DONE, finished_at=NOW), [job(version=0)], actor="user ada")

    await context.db.write(born)
    context.db.listen(lambda notices: context.signals.notify(notices.changed))
    found = history.follow_events(context, await history.open_events(context, ADA, "main", "hello"), after=0)
    while await anext(found) is not Sign.ALIVE:
        pass
    ending = asyncio.create_task(anext(found, None))
    await runs.delete(context, ADA, "main", "hello")
    assert await ending is None


async def test_the_run_precedes_the_events_of_each_change_where_it_is_asked_for(context: Context) -> None:
    def born(tx: Tx) -> None:
        commits.add_run(tx, run(), [job(version=0)], actor="user ada")

    await context.db.write(born)
    context.db.listen(lambda notices: context.signals.notify(notices.changed))
    found = history.follow_events(
        context, await history.open_events(context, ADA, "main", "hello"), after=0, shows_run=True
    )
    shown, event = await anext(found), await anext(found)
    assert isinstance(shown, RunView) and isinstance(event, EventView)
    assert shown.cursor >= event.seq, "what precedes an event includes it"
    while await anext(found) is not Sign.ALIVE:
        pass
    context.signals.notify({run().id})  # as for a pull, which is not worth an event
    assert isinstance(await anext(found), RunView)


async def test_log_of_one_attempt_has_offsets_of_its_own_and_ends_with_it(context: Context) -> None:
    def waiting(tx: Tx) -> None:
        ended = job(id="1-job", attempt=1, status=JobStatus.FAILED, finished_at=NOW, version=0)
        commits.add_run(tx, run(status=RunStatus.PENDING), [ended, job(id="2-job", attempt=2, version=0)], actor="ada")

    await context.db.write(waiting)
    context.logs.append("1-job", "job", 0, 10.0, b"first")
    context.logs.append("2-job", "job", 0, 40.0, b"second")
    for attempt, data in ((1, b"first"), (2, b"second")):
        cursor = await history.open_log(context, ADA, "main", replace(QUERY, attempt=attempt))
        assert (cursor.offset, cursor.end) == (0, len(data))
        parts = [part async for part in history.read_log(context, cursor, follow=attempt == 1)]
        assert parts == [Part(0, data)], "the first has ended, and is followed to its end though the run goes on"
    with pytest.raises(ResourceNotExistsError, match="The job of `hello` has no attempt 3"):
        await history.open_log(context, ADA, "main", replace(QUERY, attempt=3))


@pytest.mark.parametrize("follows", ["events", "log"])
@pytest.mark.parametrize("loses", ["token", "membership"])
async def test_stream_ends_when_its_caller_may_no_longer_read(
    context: Context, monkeypatch: pytest.MonkeyPatch, follows: str, loses: str
) -> None:
    monkeypatch.setattr(history, "BEAT_S", 0.0)

    def join(tx: Tx) -> None:
        commits.add_run(tx, run(), [job(version=0)], actor="user ada")
        users.add_user(tx, "bob", "bob", is_admin=False)
        users.add_token(tx, "0-token", "bob", "t", "value", None)
        users.put_member(tx, "0-project", "bob", "user")

    def leave(tx: Tx) -> None:
        if loses == "token":
            users.delete_token(tx, "bob", "t")
        else:
            users.remove_member(tx, "0-project", "bob")

    await context.db.write(join)
    bob = await context.db.read(lambda tx: users.find_by_token(tx, "value"))
    assert bob is not None
    follow: AsyncIterator[object] = history.follow_events(
        context, await history.open_events(context, bob, "main", "hello"), after=0
    )
    if follows == "log":
        follow = history.read_log(context, await history.open_log(context, bob, "main", QUERY), follow=True)
    else:
        assert isinstance(await anext(follow), EventView)
    whole = asyncio.create_task(_all_of(follow))
    await context.db.write(leave)
    await whole


async def test_stream_ends_when_its_project_is_created_anew(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "BEAT_S", 0.0)
    await context.db.write(lambda tx: users.set_admin(tx, ADA.id, is_admin=True))
    found = history.follow_events(context, await history.open_events(context, ADA, "main", None), after=0)
    assert await anext(found) is Sign.ALIVE
    await projects.delete(context, ADA, "main")
    await projects.create(context, ADA, "main")
    assert await anext(found, None) is None, "it would be silent: the events of the new project are not its own"


class Waits(Exception):
    """A stream begins to wait for so many seconds."""


@pytest.mark.parametrize("follows", ["events", "log"])
async def test_stream_waits_no_longer_than_until_the_next_check_of_its_caller(
    context: Context, monkeypatch: pytest.MonkeyPatch, follows: str
) -> None:
    def wait(delay_s: float) -> None:
        raise Waits(delay_s)

    now_s = [0.0]
    await context.db.write(lambda tx: commits.add_run(tx, run(), [job(version=0)], actor="user ada"))
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s[0])
    monkeypatch.setattr(asyncio, "timeout", wait)
    follow: AsyncIterator[object] = history.follow_events(
        context, await history.open_events(context, ADA, "main", "hello"), after=0
    )
    if follows == "log":
        follow = history.read_log(context, await opened(context), follow=True)
    else:
        assert isinstance(await anext(follow), EventView)
    now_s[0] = history.BEAT_S - 1.0  # an event comes, and then none
    with pytest.raises(Waits) as waits:
        await _all_of(follow)
    assert waits.value.args == (1.0,)


async def test_stream_of_events_authorizes_its_caller_once_at_its_start(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def find(tx: Tx, project: str, user_id: str) -> tuple[users.Project, str | None] | None:
        asked.append(project)
        return find_membership(tx, project, user_id)

    find_membership = users.find_membership
    await context.db.write(lambda tx: commits.add_run(tx, run(), [job(version=0)], actor="user ada"))
    monkeypatch.setattr(users, "find_membership", find)
    params = history_over_http.EventParams(run="hello")
    answer = await history_over_http.list_events(context, ADA, "main", params, history_over_http.SSE)
    assert isinstance(answer, StreamingResponse)
    assert "run.submitted" in str(await anext(aiter(answer.body_iterator)))
    assert asked == ["main"]


async def _all_of(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_events_of_shared_machines_are_for_admins_of_the_server(context: Context) -> None:
    def happen(tx: Tx) -> None:
        users.add_user(tx, "bob", "bob", is_admin=False)
        users.put_member(tx, "0-project", "bob", "admin")
        events.add_line(tx, actor="engine", kind="machine.ended", message="a machine was ended")

    await context.db.write(happen)
    seen = {
        user.name: await history.list_events(context, user, "main", run=None, after=0, limit=10)
        for user in (ADA, User("bob", "bob", is_admin=False))
    }
    assert (len(seen["ada"].events), len(seen["bob"].events)) == (1, 0)
