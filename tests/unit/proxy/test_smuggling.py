"""The published ways to hide a request in another one: each is refused, and nothing of it reaches a replica."""

import pytest

from tests.unit.proxy.world import GET, GOT, OK, World, status_of

LINE = b"POST /proxy/services/main/web/x HTTP/1.1\r\n"
HOST = b"Host: example.com\r\n"
HIDDEN = b"GET /admin HTTP/1.1\r\nHost: example.com\r\n\r\n"

REFUSED = {
    "CL.TE": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "TE.CL": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + HIDDEN,
    "TE.TE value": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE.TE twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "TE.TE list": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "TE.TE list of two": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE with a tab": b"Transfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n",
    "TE quoted": b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "TE with a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE folded": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE with a NUL": b"Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
    "TE empty": b"Transfer-Encoding: \r\n\r\n0\r\n\r\n",
    "CL twice": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "CL twice the same": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "CL list": b"Content-Length: 5, 5\r\n\r\nhello",
    "CL signed": b"Content-Length: +5\r\n\r\nhello",
    "CL negative": b"Content-Length: -1\r\n\r\nhello",
    "CL hexadecimal": b"Content-Length: 0x5\r\n\r\nhello",
    "CL with underscore": b"Content-Length: 1_0\r\n\r\nhellohello",
    "CL too large": b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "CL empty": b"Content-Length: \r\n\r\nhello",
    "CL with a space before the colon": b"Content-Length : 5\r\n\r\nhello",
    "header folded": b"X: y\r\n z\r\n\r\n",
    "first header folded": b" X: y\r\n\r\n",
    "name with a space": b"X Y: z\r\n\r\n",
    "name empty": b": z\r\n\r\n",
    "name without a colon": b"X\r\n\r\n",
    "name with a NUL": b"X\x00: z\r\n\r\n",
    "head that ends with bare LFs": b"X: y\n\n" + HIDDEN,
    "head that ends with LF and CR LF": b"X: y\n\r\n" + HIDDEN,
    "Host twice": b"Host: other\r\n\r\n",
    "Host in another case": b"hOST: other\r\n\r\n",
}

BODIES = {
    "size missing": b"\r\nhello\r\n0\r\n\r\n",
    "size signed": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size with a space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "size too large": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "size behind bare LF": b"5\nhello\r\n0\r\n\r\n",
    "extension with bare LF": b"5;a\nhello\r\n0\r\n\r\n",
    "extension with bare CR": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension too long": b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n",
    "chunk too long": b"5\r\nhellohello\r\n0\r\n\r\n",
    "chunk with bare LF behind": b"5\r\nhello\n0\r\n\r\n",
    "chunk with two characters behind": b"5\r\nhelloXX0\r\n\r\n",
    "end with bare LF": b"5\r\nhello\r\n0\n\n",
    "trailer folded": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX : y\r\n\r\n",
    "trailers too large": b"0\r\n" + b"X: y\r\n" * 6000 + b"\r\n",
}

FIRST_LINES = {
    "two spaces": b"GET /proxy/services/main/web/x  HTTP/1.1",
    "bare CR before": b"\rGET /proxy/services/main/web/x HTTP/1.1",
    "bare LF before": b"\nGET /proxy/services/main/web/x HTTP/1.1",
    "tab": b"GET /proxy/services/main/web/x\tHTTP/1.1",
    "space in the target": b"GET /proxy/services/main/web/x y HTTP/1.1",
    "space behind": b"GET /proxy/services/main/web/x HTTP/1.1 ",
    "fragment": b"GET /proxy/services/main/web/x#y HTTP/1.1",
    "NUL": b"GET /proxy/services/main/web/x\x00 HTTP/1.1",
    "bare CR": b"GET /proxy/services/main/web/x HTTP/1.1\rX: y",
    "HTTP/0.9": b"GET /proxy/services/main/web/x",
    "HTTP/2.0": b"GET /proxy/services/main/web/x HTTP/2.0",
    "HTTP/1.2": b"GET /proxy/services/main/web/x HTTP/1.2",
    "lower case": b"get /proxy/services/main/web/x HTTP/1.1",
    "unknown method": b"FOO /proxy/services/main/web/x HTTP/1.1",
    "CONNECT": b"CONNECT /proxy/services/main/web/x HTTP/1.1",
    "TRACE": b"TRACE /proxy/services/main/web/x HTTP/1.1",
    "user in the host": b"GET http://a@b/proxy/services/main/web/x HTTP/1.1",
    "other scheme": b"GET http://a/proxy/services/main/web/x HTTP/1.1\r\nHost: a b",
}


async def refused(world: World, request: bytes) -> None:
    """Check that nothing of a request reaches a replica, nor of what follows it."""
    client = world.client()
    client.sends(request)
    if not client.has_ended and not client.is_closed:
        client.sends(GET)
    written = client.take()
    assert 400 <= status_of(written) < 600, written
    assert written.count(b"HTTP/1.1 ") == 1
    assert (client.has_ended, world.given) == (True, [])
    if world.connections:  # the head was good, so that the replica has seen the start of it
        assert world.connections[0].is_closed
        assert b"GET" not in world.connections[0].written


@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED)
async def test_unclear_head_is_refused(world: World, lines: bytes) -> None:
    await refused(world, LINE + HOST + lines)
    assert not world.dialled


@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED)
async def test_unclear_head_is_refused_behind_a_clear_one(world: World, lines: bytes) -> None:
    client = world.client()
    client.sends(GET + LINE + HOST + lines)
    replica = await world.replica()
    assert replica.take() == GOT
    replica.sends(OK)
    assert replica.take() == b""
    assert client.take().count(b"HTTP/1.1 ") == 2
    assert client.has_ended


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("is_whole", [True, False])
async def test_unclear_chunks_are_refused(world: World, body: bytes, is_whole: bool) -> None:
    head = LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    if is_whole:
        await refused(world, head + body)
        return
    client = world.client()
    client.sends(head)
    replica = await world.replica()
    for at in range(len(body)):
        if not client.has_ended:
            client.sends(body[at : at + 1])
    assert status_of(client.take()) == 400
    assert replica.is_closed


@pytest.mark.parametrize("line", FIRST_LINES.values(), ids=FIRST_LINES)
async def test_unclear_first_line_is_refused(world: World, line: bytes) -> None:
    await refused(world, line + b"\r\n" + HOST + b"\r\n")
    assert not world.dialled


async def test_chunk_extensions_do_not_go_on(world: World) -> None:
    client = world.client()
    client.sends(LINE + HOST + b'Transfer-Encoding: Chunked\r\n\r\n5 ;a="b"\r\nhello\r\n0;c\r\n\r\n')
    assert (await world.replica()).take().endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


async def test_trailers_that_decide_something_do_not_go_on(world: World) -> None:
    trailers = b"Host: evil\r\nContent-Length: 5\r\nX-Forwarded-For: 1\r\nAuthorization: x\r\nX-Sum: 1\r\n"
    client = world.client()
    client.sends(LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"\r\n")
    assert (await world.replica()).take().endswith(b"\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_body_of_a_get_is_no_request(world: World) -> None:
    client = world.client()
    client.sends(GET[:-2] + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN)  # CL.0
    replica = await world.replica()
    assert replica.take().endswith(b"\r\n\r\n" + HIDDEN)
    replica.sends(OK)
    client.sends(GET)
    assert replica.take() == GOT


async def test_bytes_behind_a_request_without_length_are_the_next_request(world: World) -> None:
    client = world.client()
    client.sends(LINE + HOST + b"\r\n" + GET)
    replica = await world.replica()
    assert replica.take().startswith(b"POST /x HTTP/1.1\r\n")
    replica.sends(OK)
    assert replica.take() == GOT


async def test_body_of_an_upgrade_is_refused_with_it(world: World) -> None:
    lines = b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n"
    client = world.client()
    client.sends(GET[:-2] + lines + b"hello" + GET)
    replica = await world.replica()
    assert b"upgrade" not in replica.take().lower()
    replica.sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
    assert status_of(client.take()) == 502


async def test_header_too_large_is_refused_before_its_end(world: World) -> None:
    client = world.client()
    client.sends(GET[:-2])
    for _ in range(70):
        if not client.has_ended:
            client.sends(b"X: " + b"y" * 1000 + b"\r\n")
    assert status_of(client.take()) == 431


async def test_too_many_headers_are_refused(world: World) -> None:
    client = world.client()
    client.sends(GET[:-2] + b"X: y\r\n" * 250 + b"\r\n")
    assert status_of(client.take()) == 431


async def test_garbage_is_no_request_and_goes_to_the_server(world: World) -> None:
    client = world.client()
    client.sends(b"\x16\x03\x01\x02\x00" * 10)
    assert len(world.given) == 1
