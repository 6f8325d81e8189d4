"""Requests to a service whose replica is on its way: they wait, in bounded memory, and each is answered once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from dstack.kit.clock import SystemClock
from dstack.protocol.proxy import Limit, Model, Service
from dstack.proxy import holding
from dstack.proxy.models.choosing import Models
from tests.unit.proxy.test_collecting import BODY
from tests.unit.proxy.test_collecting import POST as ASK
from tests.unit.proxy.test_websockets import LINES, SWITCHED, UPGRADE
from tests.unit.proxy.world import GET, GOT, OK, OKAY, Transport, World, service, settle, status_of

POST = GET.replace(b"GET", b"POST")[:-2]
WAITS = "replica 0: pulling the image"


def starting(**options: Any) -> Service:
    """Return a service whose replica is on its way."""
    return service(replicas=0, starts=True, waits_for=WAITS, **options)


def sums(world: World, name: str = "web") -> tuple[int, int, int, int]:
    """Return how many requests of a service have ended, failed, are in flight, and wait."""
    route = world.routes.find("main", name)
    assert route is not None
    return route.sums.requests, route.sums.errors, route.sums.in_flight, route.sums.held


def asked(world: World, data: bytes = GET) -> Transport:
    """Return a client that has sent this."""
    client = world.client()
    client.sends(data)
    return client


@pytest.fixture
def empty(world: World) -> World:
    """Return a data plane whose only service has its replica on its way."""
    world.serve(starting())
    return world


class Guard:
    """A server that keeps requests which wait, and is free or stuck."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.log: list[tuple[str, int]] = []
        self.is_full = False

    def keep(self, id: int, sock: object, received: bytes) -> bool:
        if not self.is_full:
            self.kept[id] = received
        return not self.is_full

    def release(self, ids: Sequence[int]) -> None:
        for id in ids:
            del self.kept[id]
        self.log.append(("released", len(ids)))

    async def released(self) -> None:
        self.log.append(("waited", 0))


@pytest.fixture
def guard(empty: World) -> Guard:
    guard = Guard()
    empty.holding.guard_by(guard)
    return guard


async def test_requests_wait_and_go_on_in_the_order_of_their_arrival(empty: World) -> None:
    clients = [asked(empty, GET.replace(b"web/x", b"web/%d" % number)) for number in range(200)]
    assert [client.take() for client in clients] == [b""] * 200
    assert sums(empty) == (0, 0, 200, 200)
    empty.serve(service())
    await settle()
    await settle()
    for number, client in enumerate(clients):
        connection = empty.connections.popleft()
        assert connection.take() == GOT.replace(b"/x ", b"/%d " % number)
        connection.sends(OK)
        assert client.take() == OKAY
    assert sums(empty) == (200, 0, 0, 0)
    assert empty.holding.size == 0


async def test_service_that_starts_nothing_refuses_at_once_with_the_reason(world: World) -> None:
    world.serve(service(replicas=0, waits_for=WAITS))
    client = asked(world)
    answer = client.take()
    assert status_of(answer) == 503
    assert WAITS.encode() in answer
    assert b"\r\nretry-after: 2\r\n" in answer
    assert sums(world) == (1, 1, 0, 0)


async def test_body_that_arrives_in_parts_goes_on_whole(empty: World) -> None:
    sized = asked(empty, POST + b"Content-Length: 6\r\n\r\none")
    chunked = asked(empty, POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    sized.sends(b"two")
    empty.serve(service())
    await settle()
    chunked.sends(b"3\r\ntwo\r\n0\r\n\r\n")
    assert (await empty.replica()).take().endswith(b"\r\n\r\nonetwo")
    assert (await empty.replica()).take().endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_websocket_waits_with_what_is_sent_behind_it(empty: World) -> None:
    client = asked(empty, UPGRADE + b"hello")
    empty.serve(service())
    connection = await empty.replica()
    assert LINES in connection.take()
    connection.sends(SWITCHED)
    assert client.take().startswith(b"HTTP/1.1 101")
    assert connection.take() == b"hello"


async def test_head_waits(empty: World) -> None:
    client = asked(empty, GET.replace(b"GET", b"HEAD"))
    empty.serve(service())
    (await empty.replica()).sends(OK[:-2])
    assert client.take() == OKAY[:-2]


async def test_requests_behind_one_that_waits_follow_it(empty: World) -> None:
    client = asked(empty, GET + GET)
    client.sends(GET)
    assert sums(empty) == (0, 0, 1, 1)
    empty.serve(service())
    connection = await empty.replica()
    for _ in range(3):
        assert connection.take() == GOT
        connection.sends(OK)
    assert client.take() == 3 * OKAY


async def test_requests_are_admitted_before_they_wait(world: World) -> None:
    world.serve(starting(auth=True))
    assert status_of(asked(world).take()) == 401
    world.serve(starting(limits=(Limit("/", 1, 0),)))
    first, second = asked(world), asked(world)
    assert (first.take(), status_of(second.take())) == (b"", 429)


async def test_they_are_refused_with_the_reason_once_nothing_starts_any_more(empty: World) -> None:
    clients = [asked(empty) for _ in range(3)]
    empty.serve(service(replicas=0, waits_for="replica 0: no offers"))
    await settle()
    for client in clients:
        answer = client.take()
        assert status_of(answer) == 503
        assert b"is ready: replica 0: no offers" in answer
    assert sums(empty) == (3, 3, 0, 0)


async def test_they_are_refused_once_their_service_is_removed(empty: World) -> None:
    client, route = asked(empty), empty.routes.find("main", "web")
    empty.serve()
    await settle()
    assert b"is ready: it has ended" in client.take()
    assert route is not None
    assert (route.sums.in_flight, route.sums.held) == (0, 0)


async def test_they_wait_for_ten_minutes(empty: World) -> None:
    client = asked(empty)
    empty.passes(599)
    await settle()
    assert client.take() == b""
    empty.passes(2)
    await settle()
    answer = client.take()
    assert (status_of(answer), WAITS.encode() in answer) == (503, True)
    assert sums(empty) == (1, 1, 0, 0)


async def test_once_one_has_waited_in_vain_the_next_ones_get_the_reason_at_once(empty: World) -> None:
    asked(empty)
    empty.passes(601)
    await settle()
    assert status_of(asked(empty).take()) == 503
    empty.serve(starting())
    waits = asked(empty)
    assert waits.take() == b"", "something has changed"


async def test_ten_thousand_are_bounded_and_go_on_in_batches(empty: World) -> None:
    empty.serve(starting(), starting(name="other"))
    clients = [asked(empty) for _ in range(10_000)]
    held = sums(empty)[3]
    assert held == 2048
    others = [asked(empty, GET.replace(b"web", b"other")) for _ in range(2049)]
    assert sums(empty, "other")[3] == 2048, "one service leaves room for others"
    refused = clients[held].take()
    assert (status_of(refused), b"at most 2048" in refused, b"retry-after" in refused) == (503, True, True)
    assert b"at most 2048" in others[-1].take()
    assert empty.holding.size == 2 * 2048 * len(GET) + 2048 * len(b"other") - 2048 * len(b"web")
    went_on: list[int] = []
    empty.serve(service(), starting(name="other"))
    for _ in range(3 * 2048 // holding.A_TURN):
        before = sums(empty)[3]
        await asyncio.sleep(0)
        went_on.append(before - sums(empty)[3])
    assert max(went_on) <= holding.A_TURN, "other work has its turn"
    assert (sum(went_on), sums(empty, "other")[3]) == (2048, 2048)


async def test_body_of_a_gigabyte_costs_little_while_it_waits(empty: World) -> None:
    client = asked(empty, POST + b"Content-Length: %d\r\n\r\n" % (1 << 30))
    while client.is_reading:
        client.sends(bytes(10_000))
    assert empty.holding.size < (64 << 10) + 10_000 + 200
    empty.passes(590)
    assert (client.take(), client.is_closed) == (b"", False), "it is not read, so it is not slow"
    empty.serve(service())
    connection = await empty.replica()
    assert (client.is_reading, empty.holding.size) == (True, 0)
    client.sends(bytes(10_000))
    assert len(connection.take()) > 75_000
    empty.passes(61)
    assert status_of(client.take()) == 408, "now it is slow"


async def test_bodies_are_bounded_together(empty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "HELD_BYTES_MAX", 5000)
    clients = [asked(empty, POST + b"Content-Length: 3000\r\n\r\n" + bytes(1000)) for _ in range(4)]
    clients[0].sends(bytes(1000))
    answers = [client.take() for client in clients]
    assert [status_of(answer) for answer in answers] == [503, 0, 0, 0]
    assert b"\r\nretry-after: 5\r\n" in answers[0]
    assert sums(empty) == (1, 1, 3, 3)
    clients.append(asked(empty, POST + b"Content-Length: 3000\r\n\r\n" + bytes(3000)))
    assert status_of(clients[-1].take()) == 503


async def test_body_that_drips_while_it_waits_is_refused(empty: World) -> None:
    client = asked(empty, POST + b"Content-Length: 3000\r\n\r\nx")
    empty.passes(61)
    assert status_of(client.take()) == 408
    assert (sums(empty), empty.holding.size) == ((1, 0, 0, 0), 0)


async def test_client_that_expects_to_be_asked_for_its_body_waits_with_it(empty: World) -> None:
    client = asked(empty, POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    empty.passes(100)
    empty.serve(service())
    connection = await empty.replica()
    assert b"Expect: 100-continue\r\n" in connection.take()
    connection.sends(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sends(b"one")
    assert connection.take() == b"one"


async def test_client_that_is_asked_for_its_body_has_to_send_it(empty: World) -> None:
    client = asked(empty, POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    empty.serve(service())
    await empty.replica()
    empty.passes(61)
    assert status_of(client.take()) == 408


async def test_client_that_leaves_is_forgotten(empty: World) -> None:
    staying, leaving = asked(empty), asked(empty, POST + b"Content-Length: 3000\r\n\r\n" + bytes(1000))
    leaving.breaks()
    assert (sums(empty), empty.holding.size) == ((1, 0, 1, 1), len(GET))
    gone = asked(empty)
    empty.serve(service())
    gone.breaks()
    (await empty.replica()).sends(OK)
    await settle()
    assert (staying.take(), len(empty.dialled)) == (OKAY, 1)
    assert sums(empty) == (3, 0, 0, 0)


async def test_replica_that_leaves_again_is_waited_for_again(empty: World) -> None:
    client = asked(empty)
    empty.unreachable = {7000}
    empty.serve(service())
    empty.serve(starting())
    await settle()
    empty.serve(service())
    await asyncio.sleep(0)  # it connects
    empty.serve(starting())
    await settle()
    assert (client.take(), sums(empty)) == (b"", (0, 0, 1, 1))
    empty.unreachable = set()
    empty.serve(service())
    (await empty.replica()).sends(OK)
    assert (client.take(), sums(empty)) == (OKAY, (1, 0, 0, 0))


async def test_first_request_that_waits_is_reported_at_once(empty: World) -> None:
    reported: list[str] = []
    empty.holding.on_held = lambda route: reported.append(f"{route.service.name} {route.sums.held}")
    clients = [asked(empty), asked(empty)]
    assert reported == ["web 1"]
    for client in clients:
        client.breaks()
    asked(empty)
    assert reported == ["web 1", "web 1"]


# Models


@pytest.fixture
def tiny(world: World) -> Model:
    """Return the model of services whose requests wait."""
    models = Models(world, SystemClock())
    world.choose_model = models.choose
    return Model(name="tiny", format="openai")


async def test_requests_to_a_model_wait_and_are_chosen_for_again(world: World, tiny: Model) -> None:
    world.serve(starting(model=tiny), service(name="quiet", replicas=0, model=tiny, waits_for="no offers"))
    clients = [asked(world, ASK) for _ in range(3)]
    assert [client.take() for client in clients] == [b""] * 3
    assert (sums(world), sums(world, "quiet")) == ((0, 0, 3, 3), (0, 0, 0, 0))
    assert (world.holding.size < 3 * len(ASK), world.collected_bytes) == (True, 3 * len(BODY))
    world.serve(starting(model=tiny), service(name="quiet", model=tiny))
    await settle()
    for client in clients:
        connection = world.connections.popleft()
        written = connection.take()
        assert b"x-forwarded-prefix: /proxy/models\r\n" in written and written.endswith(BODY)
        connection.sends(OK)
        assert client.take() == OKAY
    assert (sums(world), sums(world, "quiet")) == ((3, 0, 0, 0), (3, 0, 0, 0))
    assert world.collected_bytes == 0


async def test_request_to_a_model_stays_with_the_service_that_it_has_waited_for(world: World, tiny: Model) -> None:
    once = (Limit("/", 0.001, 0),)
    world.serve(starting(model=tiny, limits=once))
    client = asked(world, ASK)
    world.serve(service(model=tiny, limits=once))
    (await world.replica()).sends(OK)
    assert client.take() == OKAY, "the limit has counted it once"
    assert sums(world) == (1, 0, 0, 0)


async def test_request_to_a_model_is_refused_once_no_service_starts(world: World, tiny: Model) -> None:
    world.serve(starting(model=tiny))
    client, other = asked(world, ASK), asked(world, ASK)
    world.serve(service(replicas=0, model=tiny, waits_for="replica 0: no offers"))
    await settle()
    answer = client.take()
    assert (status_of(answer), b"tiny is ready: replica 0: no offers" in answer) == (503, True)
    assert status_of(other.take()) == 503
    assert (sums(world), world.collected_bytes) == ((2, 2, 0, 0), 0)


# The end of the data plane


async def test_whole_requests_are_kept_until_they_go_on(empty: World, guard: Guard) -> None:
    asked(empty)
    sized = asked(empty, POST + b"Content-Length: 6\r\n\r\none")
    chunked = asked(empty, POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    assert list(guard.kept.values()) == [GET]
    sized.sends(b"two" + GET)
    chunked.sends(b"3\r\ntwo\r\n0\r\n\r\n")
    assert list(guard.kept.values()) == [
        GET,
        POST + b"Content-Length: 6\r\n\r\nonetwo" + GET,
        POST + b"Transfer-Encoding: chunked\r\n\r\n6\r\nonetwo\r\n0\r\n\r\n",
    ]
    empty.serve(service())
    await empty.replica()
    assert guard.kept == {}
    assert guard.log == [("released", 3), ("waited", 0)], "one message for many, and nothing runs before it"


async def test_request_goes_on_only_when_the_server_can_no_longer_repeat_it(empty: World, guard: Guard) -> None:
    gate = asyncio.Event()
    guard.released = gate.wait  # type: ignore[assignment,method-assign]
    client = asked(empty)
    empty.serve(service())
    await settle()
    assert (guard.kept, empty.dialled) == ({}, [])
    gate.set()
    (await empty.replica()).sends(OK)
    assert client.take() == OKAY


async def test_next_process_understands_what_is_kept(empty: World, guard: Guard, world: World, tiny: Model) -> None:
    world.serve(starting(model=tiny))
    requests = [GET, UPGRADE + b"hello", ASK, POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n"]
    requests.append(b"GET http://other/proxy/services/main/web/y HTTP/1.0\r\nHost: example.com\r\n\r\n")
    for request in requests:
        asked(world, request)
    kept = list(guard.kept.values())
    assert kept[:4] == requests[:4]
    assert kept[4] == b"GET /proxy/services/main/web/y HTTP/1.0\r\nHost: other\r\n\r\n"


async def test_what_cannot_be_repeated_is_not_kept(empty: World, guard: Guard) -> None:
    asked(empty, POST + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
    follower = asked(empty)
    follower.sends(GET)
    assert guard.kept == {}, "the server lacks the second request"
    guard.is_full = True
    client = asked(empty)
    empty.serve(service())
    await settle()
    for connection in empty.connections:
        connection.sends(OK)
    assert client.take() == OKAY


async def test_requests_whose_end_is_near_are_not_kept(empty: World, guard: Guard) -> None:
    asked(empty).breaks()
    asked(empty)
    empty.serve()
    await settle()
    assert guard.kept == {}


async def test_next_server_keeps_what_waits(empty: World) -> None:
    asked(empty), asked(empty, POST + b"Content-Length: 6\r\n\r\none")
    first, second = Guard(), Guard()
    empty.holding.guard_by(first)
    empty.holding.guard_by(None)
    empty.holding.guard_by(second)
    assert list(first.kept.values()) == list(second.kept.values()) == [GET]
    empty.serve(service())
    await empty.replica()
    assert (len(first.kept), len(second.kept)) == (1, 0), "the first one is away"


async def test_data_plane_that_leaves_answers_no_request_that_is_kept(empty: World, guard: Guard) -> None:
    kept = asked(empty)
    guard.is_full = True
    handed, half = asked(empty), asked(empty, POST + b"Content-Length: 6\r\n\r\none")
    empty.leave()
    await settle()
    assert (kept.is_closed, kept.take(), list(guard.kept.values())) == (True, b"", [GET])
    assert (handed.is_closed, handed.take(), empty.given) == (True, b"", [GET])
    answer = half.take()
    assert (status_of(answer), half.has_ended, b"retry-after" in answer) == (503, True, True)
    assert sums(empty) == (3, 1, 0, 0)
