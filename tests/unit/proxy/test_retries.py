"""Replicas that fail: another one is asked where that changes nothing, else the caller learns the reason."""

import pytest

from dstack.protocol.proxy import Changes, Replica, Service, Tcp
from tests.unit.proxy.world import GET, GOT, OK, OKAY, Transport, World, replica, service, settle, status_of

POST = b"POST /proxy/services/main/web/x HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi"
PUT = POST.replace(b"POST", b"PUT", 1)


async def reused(world: World, client: Transport) -> Transport:
    """Return a connection to a replica that has answered a request."""
    client.sends(GET)
    replica = await world.replica()
    replica.sends(OK)
    assert client.take() == OKAY
    replica.take()
    return replica


@pytest.mark.parametrize("request_", [GET, POST])
async def test_replica_that_cannot_be_reached_is_passed_over(world: World, request_: bytes) -> None:
    world.serve(service(replicas=2))
    world.unreachable = {7001}
    clients = [world.client() for _ in range(4)]
    for client in clients:
        client.sends(request_)
        await settle()
    for client in clients:
        (await world.replica()).sends(OK)
        assert client.take() == OKAY
    assert world.dialled.count(Tcp("127.0.0.1", 7001)) == 1, "it is left alone for a while"
    assert world.states == [("job-1", False)]


async def test_replica_that_can_be_reached_again_gets_requests_again(world: World) -> None:
    world.serve(service(replicas=2))
    world.unreachable = {7001}
    for _ in range(2):
        world.client().sends(GET)
        await settle()
    for _ in range(2):
        (await world.replica()).sends(OK)
    world.unreachable = set()
    world.passes(15)
    clients = [world.client() for _ in range(2)]
    for client in clients:
        client.sends(GET)
    for _ in clients:
        (await world.replica()).sends(OK)
    assert world.states == [("job-1", False), ("job-1", True)]


async def test_request_fails_with_a_reason_where_no_replica_can_be_reached(world: World) -> None:
    world.serve(service(replicas=5))
    world.unreachable = {7000 + number for number in range(5)}
    client = world.client()
    client.sends(POST)
    await settle()
    await settle()
    written = client.take()
    assert status_of(written) == 502
    assert b"cannot be reached" in written
    assert len(world.dialled) == 3
    assert not client.has_ended


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
async def test_idempotent_request_is_repeated_where_nothing_was_answered(world: World, method: bytes) -> None:
    world.serve(service(replicas=2))
    client = world.client()
    client.sends(POST.replace(b"POST", method, 1))
    first = await world.replica()
    sent = first.take()
    first.ends()
    await settle()
    second = await world.replica()
    assert second.take() == sent
    assert len(set(world.dialled)) == 2
    second.sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert status_of(client.take()) == 204


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
async def test_other_request_is_never_repeated(world: World, method: bytes) -> None:
    world.serve(service(replicas=2))
    client = world.client()
    client.sends(POST.replace(b"POST", method, 1))
    first = await world.replica()
    first.breaks(ConnectionResetError())
    await settle()
    written = client.take()
    assert (status_of(written), len(world.dialled)) == (502, 1)
    assert b"may have done what was asked" in written


async def test_request_is_not_repeated_once_an_answer_has_begun(world: World) -> None:
    world.serve(service(replicas=2))
    client = world.client()
    client.sends(PUT)
    first = await world.replica()
    first.sends(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    first.breaks()
    assert status_of(client.take().replace(b"HTTP/1.1 103 Early Hints\r\n\r\n", b"")) == 502
    assert len(world.dialled) == 1


async def test_idempotent_request_survives_the_end_of_an_idle_connection(world: World) -> None:
    client = world.client()
    first = await reused(world, client)
    client.sends(GET)
    assert first.take() == GOT
    first.ends()
    await settle()
    second = await world.replica()
    assert second.take() == GOT
    second.sends(OK)
    assert client.take() == OKAY


async def test_connection_that_has_ended_is_not_used_again(world: World) -> None:
    client = world.client()
    first = await reused(world, client)
    first.ends()
    client.sends(POST)
    second = await world.replica()
    assert (first.take(), second.take().count(b"POST /x ")) == (b"", 1)


async def test_large_body_is_not_repeated(world: World) -> None:
    client = world.client()
    client.sends(PUT.replace(b"Content-Length: 2\r\n\r\nhi", b"Content-Length: 200000\r\n\r\n"))
    first = await world.replica()
    client.sends(bytes(200_000))
    first.breaks()
    await settle()
    assert (status_of(client.take()), len(world.dialled)) == (502, 1)


async def test_body_that_has_arrived_in_part_is_repeated_and_completed(world: World) -> None:
    world.serve(service(replicas=2))
    client = world.client()
    client.sends(PUT.replace(b"Content-Length: 2\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"))
    first = await world.replica()
    first.breaks()
    second = await world.replica()
    client.sends(b"2\r\nde\r\n0\r\n\r\n")
    assert second.take().endswith(b"\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")


async def test_requests_go_to_the_replica_with_the_fewest(world: World) -> None:
    world.serve(service(replicas=3))
    for _ in range(6):
        world.client().sends(GET)
    await settle()
    assert sorted(map(world.dialled.count, set(world.dialled))) == [2, 2, 2]
    freed = world.connections.popleft()
    freed.sends(OK)
    freed.take()
    world.client().sends(GET)
    assert freed.take() == GOT


async def test_draining_replica_finishes_what_it_has(world: World) -> None:
    client = world.client()
    client.sends(GET)
    first = await world.replica()
    new = Replica(job_id="job-9", number=0, target=Tcp("127.0.0.1", 7009))
    changes = Changes(
        version=world.routes.version + 1,
        since=world.routes.version,
        services=(Service(id="web", project="main", name="web", auth=False, replicas=(new,), draining=(replica(0),)),),
    )
    assert world.routes.change(changes)
    other = world.client()
    other.sends(GET)
    await settle()
    assert world.dialled[-1] == Tcp("127.0.0.1", 7009)
    assert world.drained == []
    first.sends(OK)
    assert client.take() == OKAY
    assert world.drained == ["job-0"]
    assert first.is_closed


async def test_replica_that_was_unready_for_a_moment_drains_with_the_requests_that_it_has(world: World) -> None:
    client = world.client()
    client.sends(GET)
    stream = await world.replica()
    stream.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    world.serve(Service(id="web", project="main", name="web", auth=False))
    world.serve(Service(id="web", project="main", name="web", auth=False, draining=(replica(0),)))
    (draining,) = world.routes.by_prefix[b"/proxy/services/main/web"].replicas.draining
    assert draining.outstanding == 1
    stream.sends(b"0\r\n\r\n")
    assert world.drained == ["job-0"]


async def test_change_of_routes_cuts_no_request(world: World) -> None:
    client = world.client()
    client.sends(GET)
    first = await world.replica()
    first.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    world.serve()
    world.serve(service("other"))
    first.sends(b"2\r\ncd\r\n0\r\n\r\n")
    assert client.take().endswith(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")
    assert first.is_closed
    client.sends(GET)
    assert status_of(client.take()) == 401


async def test_end_of_a_run_leaves_the_route_of_its_successor_with_the_same_name(world: World) -> None:
    successor = Service(id="second", project="main", name="web", auth=False, replicas=(replica(3),))
    assert world.routes.change(Changes(version=2, since=1, services=(successor,)))
    assert world.routes.change(Changes(version=3, since=2, removed=("web",)))
    client = world.client()
    client.sends(GET)
    (await world.replica()).sends(OK)
    assert client.take() == OKAY
    assert world.dialled == [Tcp("127.0.0.1", 7003)]


async def test_replica_at_another_address_is_another_replica(world: World) -> None:
    client = world.client()
    first = await reused(world, client)
    moved = Replica(job_id="job-0", number=0, target=Tcp("127.0.0.1", 7005))
    world.serve(Service(id="web", project="main", name="web", auth=False, replicas=(moved,)))
    assert first.is_closed
    client.sends(GET)
    (await world.replica()).sends(OK)
    assert world.dialled[-1] == Tcp("127.0.0.1", 7005)
