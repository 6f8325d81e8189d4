"""Random requests, right and wrong: a replica never sees another message than h11 and aiohttp see in the same bytes."""

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dstack.proxy.clients import ClientConnection
from dstack.proxy.replicas import ReplicaConnection
from tests.unit.proxy.judges import JUDGES, Message
from tests.unit.proxy.world import OK, Transport, World

PREFIX = b"/proxy/services/main/web"
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH"])
LINES = st.sampled_from(
    [
        *(
            b"Accept: */*",
            b"X-A:b",
            b"X-B: c d ",
            b"X-C:",
            b"Content-Length: 5",
            b"content-length: 0",
            b"Expect: 100-continue",
        ),
        *(b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked", b"Transfer-Encoding: identity", b"Host: b"),
        *(
            b"Connection: close",
            b"Connection: keep-alive, x-a",
            b"Connection: upgrade",
            b"Upgrade: websocket",
            b"X: \xe9",
        ),
        *(
            b"Content-Length: 5, 5",
            b"Transfer-Encoding : chunked",
            b" folded",
            b"X Y: z",
            b"Trailer: x-sum",
            b"X:\x0bz",
        ),
    ]
)
CHUNKS = st.sampled_from(
    [
        *(b"5\r\nhello\r\n", b"5;a=b\r\nhello\r\n", b"0005\r\nhello\r\n", b"A\r\nhellohello\r\n", b"2\r\n\r\n\r\n"),
        *(b"5\nhello\n", b"0x5\r\nhello\r\n", b"5 \r\nhello\r\n", b"-5\r\nhello\r\n", b"5;\nx\r\nhello\r\n"),
    ]
)
ENDS = st.sampled_from(
    [b"0\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n", b"000\r\n\r\n", b"0;a\r\n\r\n", b"0\n\n", b"0\r\nX : 1\r\n\r\n"]
)
EDITS = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"\0",
        b":",
        b",",
        b";",
        b"0",
        b"5",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b"x",
        b"#",
        b"+",
        b"",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw one request, which may be wrong."""
    kind = draw(st.sampled_from(["none", "length", "chunks", "any"]))
    lines = draw(st.lists(LINES, max_size=2 if kind == "any" else 1))
    body = b""
    if kind == "length":
        body = draw(st.binary(max_size=12))
        lines.append(b"Content-Length: %d" % len(body))
    elif kind == "chunks":
        body = b"".join(draw(st.lists(CHUNKS, max_size=3))) + draw(ENDS)
        lines.append(b"Transfer-Encoding: chunked")
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0"]))
    target = PREFIX + draw(st.sampled_from([b"/a", b"/b?c=d", b"/%2e%2e/", b"/"]))
    head = b"\r\n".join((b"%b %b %b" % (draw(METHODS), target, version), b"Host: a", *lines, b"", b""))
    return head + body


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a connection, which may be wrong anywhere."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(EDITS) + data[place + draw(st.integers(0, 1)) :]
    return data


async def forwarded(data: bytes, pieces: list[int]) -> bytes:
    """Return the bytes that reach a replica, which answers each request that is complete."""
    world = World()
    replica = Transport(ReplicaConnection(world.heads))
    client = world.client()
    assert isinstance(client.protocol, ClientConnection)
    assert isinstance(replica.protocol, ReplicaConnection)
    idle = world.routes.by_prefix[PREFIX].replicas.ready[0].idle
    replica.protocol.idle_since_s = world.clock_s
    idle.append(replica.protocol)
    places = [0, *sorted(place for place in pieces if 0 < place < len(data)), len(data)]
    for start, end in pairwise(places):
        if not client.is_closed:
            client.protocol.data_received(data[start:end])
        while (exchange := client.protocol._exchange) is not None and exchange.is_whole:
            replica.sends(OK.replace(b"ok", b"") if exchange.is_head else OK)
        assert not world.dialled
    await world.tasks.close()
    return replica.written


def check(data: bytes, pieces: list[int]) -> None:
    """Compare what a replica sees with what the judges see."""

    async def compare() -> None:
        sent = await forwarded(data, pieces)
        ours = JUDGES["h11"](sent).messages
        assert JUDGES["aiohttp"](sent).messages == ours, "the bytes for the replica are not clear"
        for name, judge in JUDGES.items():
            verdict = judge(data)
            theirs = [one for one in verdict.messages if one.target.startswith(PREFIX)]  # others are refused
            for place, message in enumerate(ours):
                if place < len(theirs):
                    seen = theirs[place]
                    seen = Message(seen.method, seen.target.removeprefix(PREFIX), seen.body)
                    assert message == seen, f"{name} sees another message"
                else:
                    assert verdict.has_stopped, f"{name} waits for more of a message that has gone on"

    asyncio.run(compare())


@given(streams(), st.lists(st.integers(0, 400), max_size=3))
def test_replica_sees_the_messages_that_others_see(data: bytes, pieces: list[int]) -> None:
    check(data, pieces)


@given(st.lists(requests(), min_size=1, max_size=3), st.lists(st.integers(0, 400), max_size=3))
def test_right_requests_pass(parts: list[bytes], pieces: list[int]) -> None:
    data = b"".join(parts)

    async def compare() -> None:
        verdicts = [judge(data) for judge in JUDGES.values()]
        ours = JUDGES["h11"](await forwarded(data, pieces)).messages
        agreed = min((verdict.messages for verdict in verdicts), key=len)
        are_strict = not any(part in data for part in STRICTER)
        if are_strict and all(not verdict.has_stopped for verdict in verdicts):
            assert len(ours) == len(agreed)

    asyncio.run(compare())


STRICTER = (
    b"\n\n",
    b"5\nhello",
    b" folded",
    b"\x0b",
    b"identity",
    b"5, 5",
    b" : ",
    b"X Y",
    b"Host: b",
    b"5;\n",
    b"\n5",
    b"5 \r",
)
"""Parts that others accept, and we refuse."""
