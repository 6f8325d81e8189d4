"""The right of a caller to a service, and the limits of its requests."""

import pytest
from msgspec import json

from dstack.protocol.proxy import Changes, Limit
from dstack.proxy.admission import plain_path
from dstack.proxy.answers import Reply
from tests.unit.proxy.world import GET, OK, TOKEN, World, service, status_of

BEARER = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"


def with_lines(request: bytes, lines: bytes) -> bytes:
    """Return a request with further header lines."""
    return request[:-2] + lines + b"\r\n"


async def test_token_opens_the_service_and_does_not_go_on(world: World) -> None:
    world.serve(service(auth=True))
    client = world.client()
    client.sends(with_lines(GET, BEARER))
    replica = await world.replica()
    assert b"uthorization" not in replica.take()
    replica.sends(OK)
    assert status_of(client.take()) == 200


async def test_token_of_a_service_without_auth_is_its_own_and_goes_on(world: World) -> None:
    client = world.client()
    client.sends(with_lines(GET, b"Authorization: Basic abc\r\n"))
    assert b"\r\nAuthorization: Basic abc\r\n" in (await world.replica()).take()


async def test_known_token_does_not_go_on_to_a_service_that_needs_none(world: World) -> None:
    client = world.client()
    client.sends(with_lines(GET, BEARER))
    assert b"uthorization" not in (await world.replica()).take()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"", 401),
        (b"Authorization: Bearer wrong\r\n", 401),
        (b"Authorization: Basic abc\r\n", 401),
        (b"Authorization: Bearer\r\n", 401),
        (b"Authorization: bearer  " + TOKEN.encode() + b" \r\n", 200),
    ],
)
async def test_only_known_tokens_open_a_service(world: World, lines: bytes, status: int) -> None:
    world.serve(service(auth=True))
    client = world.client()
    client.sends(with_lines(GET, lines))
    if status == 200:
        (await world.replica()).sends(OK)
    assert status_of(client.take()) == status


async def test_token_of_another_project_is_refused(world: World) -> None:
    world.serve(service(auth=True))
    client = world.client()
    client.sends(with_lines(GET.replace(b"/main/", b"/other/"), BEARER))
    assert status_of(client.take()) == 403


async def test_revoked_token_is_refused_on_an_open_connection(world: World) -> None:
    world.serve(service(auth=True))
    client = world.client()
    client.sends(with_lines(GET, BEARER))
    (await world.replica()).sends(OK)
    hashes = dict.fromkeys(world.routes._tokens, ())
    world.routes.change(Changes(version=9, since=world.routes.version, tokens=hashes))
    client.take()
    client.sends(with_lines(GET, BEARER))
    assert status_of(client.take()) == 401


async def test_unknown_token_is_no_verdict_while_the_server_is_away(world: World) -> None:
    world.serve(service(auth=True))
    world.is_server_away = True
    client = world.client()
    client.sends(with_lines(GET, b"Authorization: Bearer new\r\n") + with_lines(GET, BEARER))
    written = client.take()
    assert status_of(written) == 503
    assert b"retry-after" in written
    (await world.replica()).sends(OK)
    assert status_of(client.take()) == 200


async def test_unknown_service_names_those_of_the_project_to_its_members(world: World) -> None:
    world.serve(service(), service("api"))
    client = world.client()
    client.sends(GET.replace(b"/web/", b"/wbe/"))
    written = client.take()
    assert (status_of(written), b"api" in written) == (401, False)
    client.sends(with_lines(GET.replace(b"/web/", b"/wbe/"), BEARER))
    written = client.take()
    assert status_of(written) == 404
    assert b"api, web" in written


async def test_token_is_not_judged_where_there_are_no_services(world: World) -> None:
    world.serve()
    world.choose_model = lambda exchange: Reply(b"")
    client = world.client()
    for request in (GET, GET.replace(b"services/main/web/x", b"models/main/models")):
        client.sends(with_lines(request, b"Authorization: Bearer new\r\n"))
        written = client.take()
        assert status_of(written) == 404
        assert b"This server has no services" in written


@pytest.mark.parametrize(
    "path",
    [
        b"/proxy/",
        b"/proxy/services",
        b"/proxy/services/",
        b"/proxy/services/main",
        b"/proxy/services//web/",
        b"/proxy/x/y",
        b"/proxy/../api/runs",
        b"/proxy/..%2fapi/runs",
        b"/proxy/%2e%2e/api/runs",
        b"/proxy/..\\api\\runs",
    ],
)
async def test_incomplete_path_is_refused(world: World, path: bytes) -> None:
    client = world.client()
    client.sends(GET.replace(b"/proxy/services/main/web/x", path))
    written = client.take()
    assert status_of(written) == 404
    assert json.encode(repr(path.decode()))[1:-1] in written, "the whole path is shown"
    assert (world.given, world.dialled) == ([], [])


@pytest.mark.parametrize(
    "path",
    [
        *(b"/proxy/services/other/../main/web/x", b"/proxy/services/main%2fweb/x", b"/proxy/services/main/we%62/x"),
        *(b"/proxy//services/main/web/x", b"/proxy/services/main/web%00/x", b"/proxy/services/main/WEB/x"),
        *(b"/proxy/services/main/..%2fmain/web/x", b"/proxy/services/%2e%2e/main/web/x"),
        *(b"/proxy/services/main\\web/x", b"/proxy/services/main/web\\..\\x/y", b"/proxy/services/main//web/x"),
    ],
)
async def test_other_spellings_of_a_path_are_other_paths(world: World, path: bytes) -> None:
    world.serve(service(auth=True))
    client = world.client()
    client.sends(with_lines(GET.replace(b"/proxy/services/main/web/x", path), BEARER))
    assert status_of(client.take()) in (403, 404)
    assert (world.given, world.dialled) == ([], [])


async def test_refused_body_that_is_here_leaves_the_connection_open(world: World) -> None:
    world.serve(service(auth=True))
    client = world.client()
    post = GET.replace(b"GET", b"POST", 1)
    client.sends(with_lines(post, b"Content-Length: 5\r\n") + b"hello" + post)
    assert client.take().count(b"HTTP/1.1 401 ") == 2
    client.sends(with_lines(post, b"Content-Length: 5\r\n"))
    assert b"connection: close\r\n" in client.take()
    assert client.has_ended


async def test_limit_refuses_what_is_too_much_and_says_when_to_return(world: World) -> None:
    limits = (Limit(prefix="/api", rps=1, burst=1), Limit(prefix="/", rps=100, burst=100))
    world.serve(service(replicas=0, limits=limits))
    client = world.client()
    client.sends(GET.replace(b"/x", b"/api/x") * 3 + GET)
    statuses = [int(part[:3]) for part in client.take().split(b"HTTP/1.1 ")[1:]]
    assert statuses == [503, 503, 429, 503]
    world.passes(1)
    client.sends(GET.replace(b"/x", b"/api/x"))
    assert status_of(client.take()) == 503


@pytest.mark.parametrize(
    "path", [b"/api", b"/%61pi", b"//api", b"/x/../api", b"/./api", b"/x/%2e%2e/api", b"/..%2fapi?x"]
)
async def test_no_spelling_of_a_path_evades_a_limit(world: World, path: bytes) -> None:
    world.serve(service(replicas=0, limits=(Limit(prefix="/api", rps=0.001, burst=0),)))
    client = world.client()
    client.sends(GET.replace(b"/x", b"/api"))
    client.sends(GET.replace(b"/x", path))
    assert client.take().count(b"HTTP/1.1 429 ") == 1
    assert plain_path(path) == b"/api"


async def test_limit_by_header_counts_each_value_alone(world: World) -> None:
    world.serve(service(replicas=0, limits=(Limit(prefix="/", rps=0.001, burst=0, header="X-Key"),)))
    client = world.client()
    client.sends(with_lines(GET, b"x-key: a\r\n") + with_lines(GET, b"X-Key: b\r\n") + with_lines(GET, b"X-KEY: a\r\n"))
    assert client.take().count(b"HTTP/1.1 429 ") == 1


async def test_refusals_are_problem_details(world: World) -> None:
    client = world.client()
    client.sends(GET.replace(b"/web/", b"/none/"))
    head, _, body = client.take().partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"content-length: %d" % len(body) in head
    assert b'"code":"unauthorized"' in body
    client.sends(GET.replace(b"/web/", b"/none/").replace(b"GET", b"HEAD", 1))
    assert client.take().endswith(b"\r\n\r\n")
