"""Connections that switch to WebSockets: bytes both ways, until both sides have ended."""

import pytest

from tests.unit.proxy.world import FORWARDED, GET, OK, Transport, World, settle, status_of

UPGRADE = (
    GET[:-2] + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: abc\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: xyz\r\n\r\n"
)
LINES = b"connection: upgrade\r\nupgrade: websocket\r\n"


async def opened(world: World) -> tuple[Transport, Transport]:
    """Return both ends of an open WebSocket."""
    client = world.client()
    client.sends(UPGRADE)
    replica = await world.replica()
    expected = b"GET /x HTTP/1.1\r\nHost: example.com\r\nSec-WebSocket-Key: abc\r\nSec-WebSocket-Version: 13\r\n"
    assert replica.take() == expected + LINES + FORWARDED + b"\r\n"
    replica.sends(SWITCHED)
    accepted = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: xyz\r\n"
    assert client.take() == accepted + LINES + b"\r\n"
    return client, replica


async def test_bytes_go_both_ways_at_once(world: World) -> None:
    client, replica = await opened(world)
    for size in (1, 200_000, 1):
        client.sends(b"a" * size)
        assert replica.take() == b"a" * size
        replica.sends(b"b" * size)
        assert client.take() == b"b" * size
    world.passes(100_000)
    assert not client.is_closed


async def test_bytes_behind_the_answer_are_the_first_of_the_socket(world: World) -> None:
    client = world.client()
    client.sends(UPGRADE)
    replica = await world.replica()
    replica.sends(SWITCHED + b"hello\r\n\r\n")
    assert client.take().endswith(b"\r\n\r\nhello\r\n\r\n")


async def test_bytes_behind_the_request_wait_for_the_answer(world: World) -> None:
    client = world.client()
    client.sends(UPGRADE + b"hello")
    replica = await world.replica()
    assert b"hello" not in replica.take()
    client.sends(b" world")
    assert not client.is_reading
    replica.sends(SWITCHED)
    assert (replica.take(), client.is_reading) == (b"hello world", True)


async def test_upgrade_that_the_replica_refuses_is_an_answer(world: World) -> None:
    client = world.client()
    client.sends(UPGRADE + GET)
    replica = await world.replica()
    replica.take()
    replica.sends(OK)
    assert b"connection: close\r\n" in client.take()
    assert (client.has_ended, replica.take()) == (True, b"")


async def test_each_side_ends_for_itself(world: World) -> None:
    client, replica = await opened(world)
    client.ends()
    assert (replica.has_ended, client.is_closed) == (True, False)
    replica.sends(b"the rest")
    assert client.take() == b"the rest"
    replica.ends()
    assert client.has_ended
    world.passes(2)
    await settle()
    assert (client.is_closed, replica.is_closed) == (True, True)
    assert world.routes.by_prefix[b"/proxy/services/main/web"].sums.in_flight == 0


async def test_end_of_the_replica_leaves_the_client_its_say(world: World) -> None:
    client, replica = await opened(world)
    replica.ends()
    assert client.has_ended
    client.sends(b"goodbye")
    assert replica.take() == b"goodbye"
    client.ends()
    await settle()
    assert (client.is_closed, replica.is_closed) == (True, True)


@pytest.mark.parametrize("is_client", [True, False])
async def test_loss_of_one_side_ends_the_other(world: World, is_client: bool) -> None:
    client, replica = await opened(world)
    (client if is_client else replica).breaks(ConnectionResetError())
    world.passes(2)
    await settle()
    assert (client.is_closed, replica.is_closed) == (True, True)
    assert world.routes.by_prefix[b"/proxy/services/main/web"].sums.in_flight == 0


async def test_back_pressure_holds_each_direction_alone(world: World) -> None:
    client, replica = await opened(world)
    client.is_stalled = True
    replica.sends(bytes(100_000))
    assert (replica.is_reading, client.is_reading) == (False, True)
    client.reads_on()
    replica.is_stalled = True
    client.sends(bytes(100_000))
    assert (replica.is_reading, client.is_reading) == (True, False)
    replica.reads_on()
    assert client.is_reading


async def test_client_that_reads_nothing_is_cut_and_a_quiet_one_is_not(world: World) -> None:
    client, replica = await opened(world)
    for _ in range(60):
        world.passes(60)
    assert not client.is_closed
    client.is_stalled = True
    replica.sends(bytes(100_000))
    world.passes(299)
    assert not client.is_closed
    world.passes(2)
    await settle()
    assert (client.is_closed, replica.is_closed) == (True, True)


async def test_other_protocols_do_not_switch(world: World) -> None:
    client = world.client()
    client.sends(UPGRADE.replace(b"WebSocket\r", b"h2c\r"))
    replica = await world.replica()
    assert b"upgrade" not in replica.take().lower()
    replica.sends(OK)
    assert status_of(client.take()) == 200


async def test_switch_of_an_old_client_is_no_switch(world: World) -> None:
    client = world.client()
    client.sends(UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert b"upgrade" not in (await world.replica()).take().lower()
