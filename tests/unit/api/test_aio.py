"""`dstack.api.aio` has what `dstack.api` has: the same names, the same arguments, and `await`."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

import dstack.api
import dstack.api.aio
from dstack.api.aio import _threads
from dstack.api.aio._threads import CHUNKS_AHEAD, Threads
from dstack.errors import ServerUnreachableError
from tests.patience import PATIENCE_S

PAIRS = [
    (name, member)
    for name in dstack.api.aio._OWN
    for member in dir(getattr(dstack.api, name))
    if not member.startswith("_")
]


def test_the_same_names_are_exported() -> None:
    assert dstack.api.aio.__all__ == dstack.api.__all__
    own = {name for name in dstack.api.__all__ if getattr(dstack.api.aio, name) is not getattr(dstack.api, name)}
    assert own == set(dstack.api.aio._OWN)
    with pytest.raises(AttributeError, match="has no attribute 'Clientt'"):
        dstack.api.aio.Clientt  # noqa: B018


@pytest.mark.parametrize(("name", "member"), PAIRS)
def test_every_member_is_there_with_the_same_arguments(name: str, member: str) -> None:
    plain, own = getattr(dstack.api, name), getattr(dstack.api.aio, name)
    there, here = inspect.getattr_static(plain, member), inspect.getattr_static(own, member)
    if not callable(getattr(plain, member)):
        assert isinstance(here, type(there))
        return
    wanted, found = inspect.signature(getattr(plain, member)), inspect.signature(getattr(own, member))
    assert [(one.name, one.default, one.kind) for one in found.parameters.values()] == [
        (one.name, one.default, one.kind) for one in wanted.parameters.values()
    ]
    may_wait = inspect.iscoroutinefunction(getattr(own, member)) or "AsyncIterator" in str(found.return_annotation)
    assert may_wait or isinstance(there, staticmethod)


def test_a_stream_comes_whole_and_in_order_and_does_not_run_ahead() -> None:
    made = 0

    def source() -> Iterator[int]:
        nonlocal made
        for number in range(100):
            made += 1
            yield number

    async def read() -> list[int]:
        stream = Threads().stream(source())
        first = await anext(stream)
        while made < CHUNKS_AHEAD:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert made <= CHUNKS_AHEAD + 2
        return [first, *[item async for item in stream]]

    assert asyncio.run(read()) == list(range(100))


def test_an_error_in_a_stream_is_raised_where_it_is_read() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    async def read(stream: AsyncIterator[int]) -> None:
        assert [item async for item in stream] == [1]

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read(Threads().stream(source())))


def test_who_stops_reading_ends_the_thread() -> None:
    ended = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            ended.set()

    async def read() -> None:
        stream = Threads().stream(source())
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(read())
    assert ended.wait(PATIENCE_S)


def test_a_closed_client_says_the_same_as_the_other_and_may_be_closed_again() -> None:
    plain = dstack.api.Client.from_config("main", "http://127.0.0.1:9", "t")
    plain.close()
    with pytest.raises(ServerUnreachableError) as expected:
        plain.runs.list()

    async def use() -> None:
        client = dstack.api.aio.Client.from_config("main", "http://127.0.0.1:9", "t")
        await client.close()
        await client.close()
        for call in (client.runs.list(), client.runs.submit(dstack.api.Task(commands=["x"])), client.projects()):
            with pytest.raises(ServerUnreachableError) as caught:
                await call
            assert str(caught.value) == str(expected.value)
        with pytest.raises(ServerUnreachableError):
            await anext(client.events.list())

    asyncio.run(use())


def test_a_long_wait_does_not_hold_up_calls() -> None:
    go = threading.Event()

    async def both() -> None:
        threads = Threads()
        waits = [asyncio.create_task(threads.wait(go.wait)) for _ in range(_threads.CALLS_AT_ONCE + 1)]
        assert await asyncio.wait_for(threads.call(lambda: "done"), 10) == "done"
        go.set()
        assert all(await asyncio.gather(*waits))

    asyncio.run(both())


def test_a_wait_that_is_left_ends_by_itself_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    go, ended = threading.Event(), threading.Event()

    def long() -> None:
        go.wait()
        ended.set()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Threads().wait(long), 0.01)

    asyncio.run(leave())
    go.set()
    assert ended.wait(PATIENCE_S)
    for thread in threading.enumerate():
        if thread.name == "dstack-wait":
            thread.join(PATIENCE_S)
    assert said == []
