"""Answers of replicas: framed strictly, relayed at once, and judged before they are believed."""

import pytest

from dstack.protocol.proxy import LATENCIES_S
from tests.unit.proxy.world import GET, GOT, OK, OKAY, World, service, settle, status_of

HEAD = GET.replace(b"GET", b"HEAD", 1)
POST = b"POST /proxy/services/main/web/x HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("request_", "answer", "expected"),
    [
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"200 OK\r\ncontent-length: 5\r\n\r\n"),
        (HEAD, b"HTTP/1.1 200 OK\r\n\r\n", b"200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (
            HEAD,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (GET, b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", b"204 No Content\r\nX: y\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"204 No Content\r\n\r\n"),
        (
            GET,
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            b"304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        ),
        (GET, b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n", b"304 Not Modified\r\nETag: a\r\n\r\n"),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"200 OK\r\ncontent-length: 0\r\n\r\n"),
        (GET, b"HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n", b"299 \r\ncontent-length: 0\r\n\r\n"),
        (
            GET,
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\nX-B: 2\r\n"
            b"Content-Length: 0\r\n\r\n",
            b"200 OK\r\nX-B: 2\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            GET,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\n",
            b"200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        (
            GET,
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
            b"200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\ncontent-length: 0\r\n\r\n",
        ),
    ],
)
async def test_answer_keeps_its_meaning_and_the_connection(
    world: World, request_: bytes, answer: bytes, expected: bytes
) -> None:
    client = world.client()
    client.sends(request_)
    replica = await world.replica()
    replica.sends(answer)
    assert client.take() == b"HTTP/1.1 " + expected
    client.sends(GET)
    replica.sends(OK)
    assert client.take() == OKAY
    assert len(world.dialled) == 1


async def test_answer_that_ends_with_its_connection_goes_on_in_chunks(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhel")
    replica.sends(b"lo")
    replica.ends()
    await settle()
    head = b"HTTP/1.1 200 OK\r\nX: y\r\ntransfer-encoding: chunked\r\n\r\n"
    assert client.take() == head + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    assert not client.has_ended


async def test_close_of_the_replica_concerns_its_own_connection_alone(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (client.take(), replica.is_closed) == (OKAY, True)
    client.sends(GET)
    (await world.replica()).sends(OK)
    assert client.take() == OKAY


async def test_each_part_of_a_stream_goes_on_at_once(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.take().endswith(b"\r\n\r\n")
    for token in (b"data: a\n\n", b"data: b\n\n"):
        replica.sends(b"9\r\n" + token + b"\r\n")
        assert client.take() == b"9\r\n" + token + b"\r\n"
    for _ in range(100):  # nearly two hours of silence
        world.passes(70)
    replica.sends(b"0\r\n\r\n")
    assert (client.take(), client.is_closed) == (b"0\r\n\r\n", False)


async def test_interim_answers_go_on(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    replica.sends(hints + hints + OK)
    assert client.take() == hints * 2 + OKAY


async def test_interim_answers_do_not_reach_a_client_of_http_1_0(world: World) -> None:
    client = world.client()
    client.sends(b"GET /proxy/services/main/web/x HTTP/1.0\r\n\r\n")
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")


GARBAGE = {
    "no HTTP": b"hello world\r\n\r\n",
    "no HTTP without an end": b"hello world",
    "status": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "version": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "one bare LF": b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 0\r\n\r\n",
    "header folded": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE unknown": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "TE list": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "CL twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "CL signed": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "head without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * (300 << 10),
    "interim without end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200,
    "switch unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_becomes_one_clear_error(world: World, answer: bytes) -> None:
    client = world.client()
    client.sends(POST)
    replica = await world.replica()
    replica.sends(answer)
    await settle()
    written = client.take().replace(b"HTTP/1.1 103 Early Hints\r\n\r\n", b"")
    assert (status_of(written), replica.is_closed) == (502, True)
    assert b"replica_failed" in written
    client.sends(GET)
    (await world.replica()).sends(OK)
    assert client.take() == OKAY
    sums = world.routes.by_prefix[b"/proxy/services/main/web"].sums
    assert (sums.requests, sums.errors, sums.in_flight) == (2, 1, 0)


CUT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
async def test_answer_that_breaks_off_is_cut_for_the_client_too(world: World, answer: bytes) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(answer)
    replica.ends()
    await settle()
    assert client.is_closed
    assert not client.has_ended
    sums = world.routes.by_prefix[b"/proxy/services/main/web"].sums
    assert (sums.requests, sums.errors, sums.in_flight) == (1, 1, 0)


async def test_wrong_chunks_in_an_answer_cut_it(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n")
    assert (client.is_closed, replica.is_closed) == (True, True)


@pytest.mark.parametrize("surplus", [b"x", OK, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"])
@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"])
async def test_bytes_behind_an_answer_poison_no_other_one(world: World, answer: bytes, surplus: bytes) -> None:
    client = world.client()
    client.sends(GET + GET)
    replica = await world.replica()
    replica.sends(answer + surplus)
    assert client.take().count(b"HTTP/1.1 ") == 1
    assert replica.is_closed
    other = await world.replica()
    assert other.take() == GOT
    other.sends(OK)
    assert client.take() == OKAY


@pytest.mark.parametrize("surplus", [b"hello", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"])
@pytest.mark.parametrize(
    ("request_", "status"), [(HEAD, b"200 OK"), (GET, b"204 No Content"), (GET, b"304 Not Modified")]
)
async def test_body_of_an_answer_without_one_ends_the_connection(
    world: World, request_: bytes, status: bytes, surplus: bytes
) -> None:
    client = world.client()
    client.sends(request_)
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 " + status + b"\r\n\r\n" + surplus)
    assert surplus not in client.take()
    assert replica.is_closed


async def test_unasked_bytes_end_an_idle_connection(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(OK)
    replica.sends(OK)
    assert replica.is_closed
    client.take()
    client.sends(GET)
    (await world.replica()).sends(OK)
    assert client.take() == OKAY


async def test_idle_connections_are_closed_before_their_replica_does_it(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(OK)
    world.passes(1)
    assert not replica.is_closed
    world.passes(1)
    assert replica.is_closed


async def test_idle_connections_to_one_replica_are_bounded(world: World) -> None:
    clients = [world.client() for _ in range(80)]
    for client in clients:
        client.sends(GET)
    replicas = [await world.replica() for _ in clients]
    for replica in replicas:
        replica.sends(OK)
    assert sum(not replica.is_closed for replica in replicas) == 64


async def test_counters_have_the_class_of_each_latency(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    world.clock_s += 0.03
    replica.sends(OK[:-1])
    world.clock_s += 3
    replica.sends(OK[-1:])
    count = world.routes.by_prefix[b"/proxy/services/main/web"].sums.take()
    assert count is not None
    assert (count.requests, count.errors, count.in_flight) == (1, 0, 0)
    assert count.latencies[LATENCIES_S.index(0.05)] == 1


async def test_hook_learns_of_each_answer(world: World) -> None:
    seen = []
    world.on_answer = lambda exchange, route, now_s: seen.append(
        (
            *(exchange.method, exchange.target, exchange.status, exchange.received_bytes, exchange.sent_bytes),
            now_s - exchange.began_s,
        )
    )
    client = world.client()
    client.sends(POST)
    replica = await world.replica()
    world.clock_s += 2
    replica.sends(OK)
    assert seen == [(b"POST", b"/proxy/services/main/web/x", 200, 2, 2, 2.0)]


async def test_refusal_of_a_service_without_replicas_names_the_reason(world: World) -> None:
    world.serve(service(replicas=0))
    client = world.client()
    client.sends(GET + GET)
    written = client.take()
    assert written.count(b"HTTP/1.1 503 ") == 2
    assert b"retry-after: 2\r\n" in written
    sums = world.routes.by_prefix[b"/proxy/services/main/web"].sums
    assert (sums.requests, sums.errors, sums.in_flight) == (2, 2, 0)
