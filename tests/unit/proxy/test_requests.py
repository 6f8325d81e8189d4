"""Requests of clients: their heads, bodies and order."""

import re

import pytest

from tests.unit.proxy.test_websockets import UPGRADE
from tests.unit.proxy.world import FORWARDED, GET, GOT, OK, OKAY, World, service, settle, status_of

POST = b"POST /proxy/services/main/web/x HTTP/1.1\r\nHost: example.com\r\n"
POSTED = b"POST /x HTTP/1.1\r\nHost: example.com\r\n"


async def test_request_goes_to_the_replica_and_its_answer_back_in_one_write_each(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    assert (replica.take(), replica.writes) == (GOT, 1)
    replica.sends(OK)
    assert (client.take(), client.writes) == (OKAY, 1)


async def test_connections_serve_one_request_after_the_other(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    replica.sends(OK)
    replica.take()
    client.sends(GET.replace(b"/x", b"/y?z=1"))
    assert replica.take() == GOT.replace(b"/x ", b"/y?z=1 ")
    replica.sends(OK)
    assert client.take() == OKAY * 2
    assert len(world.dialled) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
async def test_request_in_pieces_is_the_same_request(world: World, size: int) -> None:
    request = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    client = world.client()
    for at in range(0, len(request), size):
        client.sends(request[at : at + size])
    replica = await world.replica()
    head, _, body = replica.take().partition(b"\r\n\r\n")
    assert head.startswith(POSTED + b"transfer-encoding: chunked\r\n")
    assert body == b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
async def test_answer_in_pieces_is_the_same_answer(world: World, size: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    for at in range(0, len(answer), size):
        replica.sends(answer[at : at + size])
    head, _, body = client.take().partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"
    assert re.sub(rb"[1-5]\r\n([a-z]+)\r\n", rb"\1", body) == b"hello0\r\nX-Sum: 1\r\n\r\n"


async def test_pipelined_requests_are_answered_in_their_order(world: World) -> None:
    client = world.client()
    post = POST + b"Content-Length: 3\r\n\r\nabc"
    client.sends(GET + post + GET.replace(b"/x", b"/z"))
    replica = await world.replica()
    assert replica.take() == GOT
    replica.sends(OK)
    assert replica.take() == POSTED + b"content-length: 3\r\n" + FORWARDED + b"\r\nabc"
    replica.sends(OK.replace(b"ok", b"no"))
    assert replica.take() == GOT.replace(b"/x", b"/z")
    replica.sends(OK)
    assert client.take() == OKAY + OKAY.replace(b"ok", b"no") + OKAY


async def test_many_refused_requests_in_one_piece_are_all_answered(world: World) -> None:
    client = world.client()
    client.sends(GET.replace(b"/web", b"/none") * 3200)
    assert 0 < client.take().count(b"HTTP/1.1 401 ") < 100, "others have their turn"
    assert not client.is_reading
    while not client.is_reading:
        await settle()
    client.sends(GET)
    while not world.connections:
        await settle()
    assert client.take().count(b"HTTP/1.1 401 ") > 3000


async def test_client_that_pipelines_without_end_is_read_no_more(world: World) -> None:
    client = world.client()
    client.sends(GET)
    while client.is_reading:
        client.sends(GET * 100)
    replica = await world.replica()
    while not client.is_reading:
        replica.sends(OK)
    assert status_of(client.take()) == 200


async def test_next_request_waits_until_a_client_reads(world: World) -> None:
    client = world.client()
    client.is_stalled = True
    client.sends(GET)
    replica = await world.replica()
    replica.take()
    replica.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + bytes(70000))
    client.sends(GET)
    assert replica.take() == b""
    client.reads_on()
    assert replica.take() == GOT


async def test_request_for_the_server_is_given_away_at_its_start(world: World) -> None:
    rest = b"GET /api/runs HTTP/1.1\r\nHost: a\r\n\r\n"
    first = world.client()
    first.sends(rest)
    second = world.client()
    second.sends(GET + rest)
    assert world.given == [rest]
    replica = await world.replica()
    replica.sends(OK)
    assert world.given == [rest, rest]
    assert (first.is_closed, second.is_closed) == (True, True)


async def test_connection_is_given_away_only_once_its_last_answer_has_left(world: World) -> None:
    client = world.client()
    client.is_stalled = True
    client.sends(GET)
    (await world.replica()).sends(OK)
    client.sends(b"GET /api/runs HTTP/1.1\r\n")
    assert world.given == []
    client.reads_on()
    assert world.given == [b"GET /api/runs HTTP/1.1\r\n"]


async def test_empty_lines_between_requests_are_skipped(world: World) -> None:
    client = world.client()
    client.sends(b"\r\n\r\n" + GET)
    replica = await world.replica()
    assert replica.take() == GOT
    replica.sends(OK)
    client.sends(b"\r\n")
    world.passes(30)
    assert (client.take(), client.is_closed) == (OKAY, False)


HOP_BY_HOP = (
    b"Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\n"
    b"Proxy-Authorization: x\r\nProxy-Connection: close\r\n"
)
FORGED = (
    b"X-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /\r\nx-forwarded-host: evil\r\n"
)


@pytest.mark.parametrize("lines", [HOP_BY_HOP, FORGED])
async def test_headers_of_one_hop_and_forged_ones_do_not_go_on(world: World, lines: bytes) -> None:
    client = world.client()
    client.sends(GET[:-2] + lines + b"Accept: */*\r\n\r\n")
    expected = GOT.replace(b"example.com\r\n", b"example.com\r\nAccept: */*\r\n", 1)
    assert (await world.replica()).take() == expected


async def test_connection_header_cannot_remove_the_host(world: World) -> None:
    client = world.client()
    client.sends(GET[:-2] + b"Connection: host, x-forwarded-for, content-length\r\n\r\n")
    assert (await world.replica()).take() == GOT


async def test_headers_keep_their_names_values_and_order(world: World) -> None:
    lines = b"X-B: 1\r\nx-a:2\r\nX-B:  caf\xe9 \r\nX-Empty:\r\n"
    client = world.client()
    client.sends(GET[:-2] + lines + b"\r\n")
    replica = await world.replica()
    assert b"\r\nX-B: 1\r\nx-a: 2\r\nX-B: caf\xe9\r\nX-Empty: \r\nx-forwarded" in replica.take()


async def test_same_headers_from_another_client_carry_its_own_facts(world: World) -> None:
    first, second = world.client(), world.client()
    second.protocol.address = b"10.0.0.8"  # type: ignore[attr-defined]
    first.sends(GET)
    second.sends(GET)
    assert b"x-forwarded-for: 10.0.0.7\r\n" in (await world.replica()).take()
    assert b"x-forwarded-for: 10.0.0.8\r\n" in (await world.replica()).take()


async def test_absolute_target_counts_more_than_the_host(world: World) -> None:
    client = world.client()
    client.sends(b"GET http://example.com/proxy/services/main/web/x HTTP/1.1\r\nHost: other\r\n\r\n")
    assert (await world.replica()).take() == GOT


async def test_expectation_is_answered_by_the_replica(world: World) -> None:
    client = world.client()
    client.sends(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    replica = await world.replica()
    assert b"\r\nExpect: 100-continue\r\n" in replica.take()
    replica.sends(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sends(b"hello")
    assert replica.take() == b"hello"
    replica.sends(OK)
    assert client.take() == OKAY


async def test_answer_before_the_end_of_the_request_ends_both_connections(world: World) -> None:
    client = world.client()
    client.sends(POST + b"Content-Length: 500\r\n\r\nhello")
    replica = await world.replica()
    replica.sends(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert b"\r\nconnection: close\r\n" in client.take()
    assert client.has_ended
    client.sends(b"more")
    world.passes(2)
    await settle()
    assert (client.is_closed, replica.is_closed) == (True, True)


async def test_large_body_streams_through(world: World) -> None:
    client = world.client()
    client.sends(POST + b"Content-Length: 1000000\r\n\r\n")
    replica = await world.replica()
    replica.take()
    for _ in range(10):
        client.sends(bytes(100_000))
        assert replica.take() == bytes(100_000)
    replica.sends(OK)
    client.sends(GET)
    assert replica.take() == GOT


async def test_body_waits_for_a_connection_in_bounded_memory(world: World) -> None:
    client = world.client()
    client.sends(POST + b"Content-Length: 1000000\r\n\r\n" + bytes(70_000))
    assert not client.is_reading
    replica = await world.replica()
    assert replica.take().endswith(b"\r\n\r\n" + bytes(70_000))
    assert client.is_reading


async def test_client_of_http_1_0_gets_an_answer_that_it_understands(world: World) -> None:
    client = world.client()
    client.sends(b"GET /proxy/services/main/web/x HTTP/1.0\r\n\r\n")
    replica = await world.replica()
    assert replica.take().startswith(b"GET /x HTTP/1.1\r\nHost: localhost\r\n")
    replica.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert client.take() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"
    assert client.has_ended


async def test_client_of_http_1_0_may_keep_its_connection(world: World) -> None:
    client = world.client()
    request = b"GET /proxy/services/main/web/x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    client.sends(request)
    replica = await world.replica()
    replica.sends(OK)
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"
    client.sends(request)
    replica.sends(OK)
    assert client.take().endswith(b"ok")


async def test_connection_ends_behind_the_answer_where_the_client_asks_for_it(world: World) -> None:
    client = world.client()
    client.sends(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
    replica = await world.replica()
    replica.take()
    replica.sends(OK)
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    assert (client.has_ended, replica.take()) == (True, b"")


async def test_request_and_its_services_counters_end_with_the_client(world: World) -> None:
    client = world.client()
    client.sends(GET)
    replica = await world.replica()
    sums = world.routes.by_prefix[b"/proxy/services/main/web"].sums
    assert sums.in_flight == 1
    client.breaks()
    await settle()
    assert replica.is_closed
    assert (sums.in_flight, sums.requests, sums.errors) == (0, 1, 0)


async def test_client_that_leaves_while_a_replica_is_dialled_leaves_nothing_behind(world: World) -> None:
    client = world.client()
    client.sends(GET)
    client.breaks()
    await settle()
    route = world.routes.by_prefix[b"/proxy/services/main/web"]
    assert (route.sums.in_flight, route.replicas.ready[0].outstanding) == (0, 0)


async def test_path_without_the_prefix_is_kept_where_the_service_wants_it(world: World) -> None:
    world.serve(service(strip_prefix=False))
    client = world.client()
    client.sends(GET)
    assert (await world.replica()).take() == GOT.replace(b"GET /x", b"GET /proxy/services/main/web/x")


TRICKS = (b"/../../other/web/", b"/..%2f..%2fother/web", b"/%2e%2e/%2e%2e/api", b"/a%00b", b"/..\\..\\api", b"/%")
"""Paths that would leave the service, if anything on the way resolved them: its app alone gets them."""


@pytest.mark.parametrize(
    ("rest", "target"),
    [(b"", b"/"), (b"?a=1", b"/?a=1"), (b"/", b"/"), (b"//a/../b", b"//a/../b"), *((path, path) for path in TRICKS)],
)
async def test_path_below_the_service_goes_on_as_it_is(world: World, rest: bytes, target: bytes) -> None:
    client = world.client()
    client.sends(GET.replace(b"/x", rest).replace(b"GET", b"PUT"))
    assert (await world.replica()).take() == GOT.replace(b"/x", target).replace(b"GET", b"PUT")


@pytest.mark.parametrize("strip_prefix", [True, False])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_page_at_the_name_of_the_service_is_led_to_its_slash(
    world: World, method: bytes, strip_prefix: bool
) -> None:
    world.serve(service(strip_prefix=strip_prefix))
    client = world.client()
    for query in (b"", b"?a=1"):
        client.sends(GET.replace(b"/x", query).replace(b"GET", method))
        written = client.take()
        assert (status_of(written), client.has_ended) == (308, False)
        assert b"\r\nlocation: /proxy/services/main/web/%b\r\n" % query in written
    assert world.dialled == []
    client.sends(UPGRADE.replace(b"/x", b""))
    assert (await world.replica()).take().startswith(b"GET /" if strip_prefix else b"GET /proxy/services/main/web ")
