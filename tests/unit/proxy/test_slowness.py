"""Slow and stalled clients and replicas: time-outs for each phase, and back-pressure in both directions."""

import pytest

from tests.unit.proxy.world import GET, HIGH_WATER, OK, OKAY, World, settle, status_of

POST = b"POST /proxy/services/main/web/x HTTP/1.1\r\nHost: example.com\r\n"


async def test_connection_without_a_request_ends_in_silence(world: World) -> None:
    client = world.client()
    world.passes(11)
    assert (client.is_closed, client.take()) == (True, b"")


async def test_idle_connection_ends_in_silence(world: World) -> None:
    client = world.client()
    client.sends(GET)
    (await world.replica()).sends(OK)
    world.passes(70)
    assert not client.is_closed
    world.passes(10)
    assert (client.is_closed, client.take()) == (True, OKAY)


@pytest.mark.parametrize("start", [b"G", b"GET /proxy/services/main/web/x HT", GET[:-2]])
async def test_head_that_drips_is_refused(world: World, start: bytes) -> None:
    client = world.client()
    client.sends(start)
    for _ in range(9):
        world.passes(1)
        client.sends(b"a" if start != b"G" else b"")
    assert client.take() == b""
    world.passes(2)
    assert (status_of(client.take()), client.has_ended) == (408, True)
    world.passes(2)
    assert client.is_closed


async def test_second_head_that_drips_is_refused(world: World) -> None:
    client = world.client()
    client.sends(GET)
    (await world.replica()).sends(OK)
    world.passes(60)
    client.sends(GET[:-2])
    world.passes(9)
    assert client.take() == OKAY
    world.passes(2)
    assert status_of(client.take()) == 408


@pytest.mark.parametrize("framing", [b"Content-Length: 5000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1388\r\n"])
async def test_body_that_drips_is_refused(world: World, framing: bytes) -> None:
    client = world.client()
    client.sends(POST + framing)
    replica = await world.replica()
    for _ in range(3):  # fast enough
        client.sends(bytes(1100))
        world.passes(50)
    for _ in range(60):
        if not client.has_ended:
            client.sends(b"x")
            world.passes(1)
    assert status_of(client.take()) == 408
    assert replica.is_closed


async def test_drip_of_chunk_extensions_is_no_progress(world: World) -> None:
    client = world.client()
    client.sends(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(5):
        client.sends(b"1;" + b"a" * 1000 + b"\r\nx\r\n")
        world.passes(13)
    assert status_of(client.take()) == 408


async def test_body_is_not_too_slow_while_the_replica_takes_nothing(world: World) -> None:
    client = world.client()
    client.sends(POST + b"Content-Length: 5000000\r\n\r\n")
    replica = await world.replica()
    replica.is_stalled = True
    while client.is_reading:
        client.sends(bytes(20_000))
    assert replica.buffered < 2 * HIGH_WATER
    world.passes(3000)
    assert not client.is_closed
    replica.reads_on()
    assert client.is_reading
    world.passes(61)
    assert status_of(client.take()) == 408


async def test_answer_waits_for_a_stalled_client_in_bounded_memory(world: World) -> None:
    size = 1_000_000
    clients, replicas = [], []
    for _ in range(200):
        client = world.client()
        client.is_stalled = True
        client.sends(GET)
        replica = await world.replica()
        replica.sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        sent = 0
        while replica.is_reading:
            replica.sends(bytes(40_000))
            sent += 40_000
        clients.append(client)
        replicas.append((replica, sent))
    assert sum(client.buffered for client in clients) < 200 * 3 * HIGH_WATER
    for client, (replica, sent) in zip(clients, replicas, strict=True):
        client.reads_on()
        assert replica.is_reading
        replica.sends(bytes(size - sent))
        assert len(client.take()) > size


async def test_client_that_reads_nothing_is_cut(world: World) -> None:
    client = world.client()
    client.is_stalled = True
    client.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
    world.passes(299)
    assert not client.is_closed
    world.passes(2)
    await settle()
    assert (client.is_closed, replica.is_closed) == (True, True)


async def test_client_that_reads_a_little_is_not_cut(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(9):
        client.is_stalled = True
        replica.sends(bytes(100_000))
        world.passes(299)
        client.reads_on()
    assert (client.is_closed, replica.is_reading) == (False, True)


async def test_client_that_takes_its_answer_slowly_but_steadily_is_not_cut(world: World) -> None:
    client = world.client()
    client.is_stalled = True
    client.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
    while client.buffered > 1000:  # it never reads enough at once for more to be written
        client.buffered -= 1000
        world.passes(100)
    assert not client.is_closed
    for _ in range(4):
        world.passes(100)
    assert client.is_closed


async def test_client_that_was_slow_once_is_served_for_ever(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    client.is_stalled = True
    replica.sends(OK)
    world.passes(76)  # the end of the answer is still on its way when the next request is due
    assert not client.is_closed
    client.is_stalled, client.buffered = False, 0
    client.sends(GET)
    other = await world.replica()
    for _ in range(10):
        world.passes(100)
    other.sends(OK)
    assert (client.take(), client.is_closed) == (OKAY + OKAY, False)


async def test_stalled_client_stalls_no_other_one_of_the_same_replica(world: World) -> None:
    first, second = world.client(), world.client()
    first.is_stalled = True
    first.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
    second.sends(GET)
    assert replica.is_reading
    replica.sends(OK)
    assert second.take() == OKAY


async def test_end_of_an_answer_reaches_a_slow_client_whose_connection_ends(world: World) -> None:
    client = world.client()
    client.is_stalled = True
    client.sends(GET[:-2] + b"Connection: close\r\n\r\n")
    (await world.replica()).sends(OK)
    for _ in range(100):
        world.passes(2)
    assert not client.is_closed
    world.passes(301)
    assert client.is_closed


async def test_quiet_replica_is_waited_for(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    for _ in range(60):
        world.passes(60)
    replica.sends(OK)
    assert client.take() == OKAY


async def test_quiet_stream_is_not_cut(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    client.take()
    for _ in range(60):
        world.passes(60)
    replica.sends(b"3\r\ntwo\r\n0\r\n\r\n")
    assert client.take() == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_too_many_connections_end_one_that_waits(world: World) -> None:
    world._clients_max = 2
    busy, waiting = world.client(), world.client()
    busy.sends(GET)
    newest = world.client()
    assert (busy.is_closed, waiting.is_closed, newest.is_closed) == (False, True, False)
    newest.sends(GET)
    last = world.client()
    await settle()
    assert (busy.is_closed, newest.is_closed, last.is_closed) == (False, False, True)


async def test_too_many_connections_cut_no_answer_that_is_on_its_way(world: World) -> None:
    world._clients_max = 2
    taking = world.client()
    taking.is_stalled = True
    taking.sends(GET)
    (await world.replica()).sends(OK)
    idle = world.client()
    newest = world.client()
    assert (taking.is_closed, idle.is_closed, newest.is_closed) == (False, True, False)


async def test_drain_ends_connections_behind_their_answers(world: World) -> None:
    idle, busy = world.client(), world.client()
    busy.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    waiting = world.client()
    waiting.sends(GET)
    other = await world.replica()
    world.leave()
    assert (idle.is_closed, busy.is_closed) == (True, False)
    replica.sends(b"2\r\nok\r\n0\r\n\r\n")
    other.sends(OK)
    assert waiting.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    assert waiting.has_ended
    assert busy.take().endswith(b"0\r\n\r\n")
    assert busy.has_ended
