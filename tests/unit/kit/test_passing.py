"""Frames and descriptors between two processes that share sockets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from dstack.kit import passing
from dstack.kit.passing import Passing

MAX = 1 << 24


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Passing, Passing]]:
    one, other = (Passing(sock, MAX) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


async def test_frames_arrive_whole_and_in_order_beyond_what_the_kernel_buffers(ends: tuple[Passing, Passing]) -> None:
    one, other = ends
    frames = [os.urandom(size) for size in (0, 1, 3_000_000, 5, 1_000_000)]
    for frame in frames:
        assert one.send(frame)
    assert [await other.receive() for _ in frames] == [(frame, None) for frame in frames]
    await one.drain()


async def test_each_descriptor_arrives_with_its_frame(ends: tuple[Passing, Passing]) -> None:
    one, other = ends
    pairs = [socket.socketpair() for _ in range(20)]
    for number, (mine, _) in enumerate(pairs):
        one.send(b"x" * 100_000 * (number % 3))
        one.send(b"carried", mine)
        mine.close()
    for _, theirs in pairs:
        await other.receive()
        frame, taken = await other.receive()
        assert frame == b"carried"
        assert taken is not None
        assert not os.get_inheritable(taken.fileno())
        with taken:
            taken.sendall(b"hello")
        assert theirs.recv(9) == b"hello"
        assert theirs.recv(9) == b"", "no copy of the socket may be left open"
        theirs.close()


async def test_last_frames_of_the_other_side_are_read_though_it_takes_no_more(ends: tuple[Passing, Passing]) -> None:
    one, other = ends
    one.send(b"last")
    one.close()
    assert not other.send(b"too late")
    await other.drain()
    assert await other.receive() == (b"last", None)
    with pytest.raises(EOFError):
        await other.receive()


async def test_end_of_the_other_side_is_reported_behind_its_last_frame(ends: tuple[Passing, Passing]) -> None:
    one, other = ends
    one.send(b"last")
    one.close()
    assert await other.receive() == (b"last", None)
    with pytest.raises(EOFError):
        await other.receive()
    assert not other.send(b"too late")


async def test_frame_beyond_the_bound_ends_the_connection() -> None:
    first, second = socket.socketpair()
    one, other = Passing(first, MAX), Passing(second, 10)
    one.send(b"x" * 11)
    with pytest.raises(ConnectionError, match="11 bytes"):
        await other.receive()
    with pytest.raises(EOFError):
        await one.receive()


async def test_side_that_takes_nothing_is_given_up(
    ends: tuple[Passing, Passing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "QUEUED_BYTES_MAX", 1_000_000)
    one, _ = ends
    while one.send(b"x" * 100_000):
        pass
    async with asyncio.timeout(10):
        await one.drain()
    assert not one.send(b"x"), "the connection has ended, and nothing is waited for any more"


async def test_slow_side_is_given_no_sockets_until_it_has_taken_what_waits(ends: tuple[Passing, Passing]) -> None:
    one, other = ends
    mine, theirs = socket.socketpair()
    with mine, theirs:
        sent = 0
        while one.send(b"x" * 1000, mine):
            sent += 1
        assert one.send(b"routes"), "frames without a socket may still queue"
        for _ in range(sent):
            frame, taken = await other.receive()
            assert (len(frame), taken is not None) == (1000, True)
            assert taken is not None
            taken.close()
        assert await other.receive() == (b"routes", None)
        await one.drain()
        assert one.send(b"carried", mine)
        _, taken = await other.receive()
        assert taken is not None
        taken.close()
