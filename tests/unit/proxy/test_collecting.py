"""Requests to models: collected, then sent to the replica that the hook chooses."""

import asyncio

from msgspec import json

from dstack.protocol.proxy import Model
from dstack.proxy import collecting
from dstack.proxy.answers import Refusal, Reply
from dstack.proxy.choices import Choice
from dstack.proxy.collecting import ModelExchange
from dstack.proxy.framing import Headers
from tests.unit.proxy.world import OK, OKAY, TOKEN, World, service, settle, status_of

BODY = b'{"model": "tiny"}'
HEAD = (
    b"POST /proxy/models/main/chat/completions HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
)
POST = HEAD + b"Content-Length: 17\r\n\r\n" + BODY
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\n" + BODY[:8] + b"\r\n9\r\n" + BODY[8:] + b"\r\n0\r\n\r\n"


def serve(world: World, choice: Choice | None = None) -> list[ModelExchange]:
    """Have a model behind two replicas. Return the list of the requests that the hook is asked for."""
    world.serve(service(auth=True, replicas=2, model=Model(name="tiny", format="openai")))
    asked: list[ModelExchange] = []

    def choose(exchange: ModelExchange) -> Choice:
        asked.append(exchange)
        route = world.routes.by_prefix[b"/proxy/services/main/web"]
        return choice or Choice(route, b"/v1/chat/completions", replica=route.replicas.ready[1])

    world.choose_model = choose
    return asked


async def test_body_is_collected_and_sent_to_the_chosen_replica(world: World) -> None:
    for request in (POST, CHUNKS):
        asked = serve(world)
        client = world.client()
        for at in range(0, len(request), 20):
            client.sends(request[at : at + 20])
        assert [(one.project, one.is_member, one.collected) for one in asked] == [("main", True, BODY)]
        replica = await world.replica()
        head, _, body = replica.take().partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: example.com\r\nContent-Type: ")
        assert b"\r\ncontent-length: 17\r\n" in head
        assert b"uthorization" not in head
        assert body == BODY
        replica.sends(OK)
        assert client.take() == OKAY
        replica.ends()
    assert {target.port for target in world.dialled if hasattr(target, "port")} == {7001}
    assert world.collected_bytes == 0


async def test_another_replica_is_tried_where_the_preferred_one_is_away(world: World) -> None:
    serve(world)
    world.unreachable = {7001}
    client = world.client()
    client.sends(POST)
    assert (await world.replica()).take().endswith(BODY)


async def test_expectation_is_answered_here(world: World) -> None:
    serve(world)
    client = world.client()
    client.sends(HEAD + b"Expect: 100-continue\r\nContent-Length: 17\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sends(BODY)
    assert b"xpect" not in (await world.replica()).take()


async def test_hook_may_answer_later(world: World) -> None:
    serve(world)
    choose = world.choose_model
    assert choose is not None
    event = asyncio.Event()

    async def later(exchange: ModelExchange) -> Choice | Reply:
        await event.wait()
        found = choose(exchange)
        assert isinstance(found, Choice)
        return found

    world.choose_model = later
    client, left = world.client(), world.client()
    client.sends(POST)
    left.sends(POST)
    await settle()
    left.breaks()
    event.set()
    (await world.replica()).sends(OK)
    await settle()
    assert (client.take(), len(world.dialled), world.collected_bytes) == (OKAY, 1, 0)


async def test_failure_of_the_hook_is_an_answer(world: World) -> None:
    serve(world)

    async def fail(exchange: ModelExchange) -> Choice | Reply:
        raise ZeroDivisionError

    world.choose_model = fail
    client = world.client()
    client.sends(POST)
    await settle()
    assert status_of(client.take()) == 500


async def test_hook_may_answer_by_itself(world: World) -> None:
    serve(world)
    world.choose_model = lambda exchange: Reply(b'{"data": []}')
    client = world.client()
    client.sends(POST + POST)
    assert client.take().count(b'\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{"data": []}') == 2


async def test_refusals_have_the_form_of_openai(world: World) -> None:
    serve(world)

    def refuse(exchange: ModelExchange) -> Choice:
        raise Refusal(404, "model_not_found", "There is no model `x`")

    world.choose_model = refuse
    client = world.client()
    client.sends(POST + POST.replace(TOKEN.encode(), b"wrong"))
    first, second = client.take().split(b"HTTP/1.1 ")[1:]
    assert first[:3] + second[:3] == b"404401"
    error = json.decode(first.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == "model_not_found"
    assert error["type"] == "invalid_request_error"
    assert json.decode(second.partition(b"\r\n\r\n")[2])["error"]["code"] == "unauthorized"


async def test_models_without_auth_need_no_token(world: World) -> None:
    asked = serve(world)
    anonymous = POST.replace(b"Authorization: Bearer " + TOKEN.encode() + b"\r\n", b"")
    client = world.client()
    client.sends(anonymous)
    assert (status_of(client.take()), len(asked)) == (401, 0)
    world.serve(service(replicas=2, model=Model(name="tiny", format="openai")))
    client.sends(anonymous)
    assert [one.is_member for one in asked] == [False]


async def test_body_that_is_too_large_is_refused_before_it_arrives(world: World) -> None:
    serve(world)
    client = world.client()
    client.sends(HEAD + b"Content-Length: 99000000\r\n\r\n")
    assert status_of(client.take()) == 413
    client = world.client()
    client.sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    while not client.has_ended:
        client.sends(chunk)
    assert status_of(client.take()) == 413
    assert world.collected_bytes == 0


async def test_all_bodies_together_are_bounded(world: World) -> None:
    serve(world)
    part = collecting.BODY_BYTES_MAX // 2
    clients = []
    world.collected_bytes = collecting.COLLECTED_BYTES_MAX - 3 * part  # others
    for _ in range(4):
        client = world.client()
        client.sends(HEAD + b"Content-Length: %d\r\n\r\n" % (2 * part) + bytes(part))
        clients.append(client)
    assert [status_of(client.take()) for client in clients] == [0, 0, 0, 503]
    for client in clients[:3]:
        client.breaks()
    assert world.collected_bytes == collecting.COLLECTED_BYTES_MAX - 3 * part


async def test_large_body_counts_until_the_replica_has_taken_it_and_is_then_forgotten(world: World) -> None:
    asked = serve(world)
    client = world.client()
    client.sends(POST)
    replica = await world.replica()
    replica.sends(OK)
    client.take(), replica.take()
    image = b'{"model": "tiny", "image": "' + b"aGVsbG8" * 1_500_000 + b'"}'
    replica.is_stalled = True
    client.sends(HEAD + b"Content-Length: %d\r\n\r\n" % len(image) + image)
    body = replica.take().partition(b"\r\n\r\n")[2]
    assert len(body) <= collecting.PART_BYTES, "no copy of the whole body is made"
    assert world.collected_bytes == len(image)
    replica.reads_on()
    await settle()
    assert body + replica.take() == image
    assert (asked[-1].collected, world.collected_bytes) == (b"", 0)
    replica.sends(OK)
    assert client.take() == OKAY
    client.sends(POST)
    assert replica.take().endswith(BODY), "the connection is used again"


async def test_replica_that_answers_before_it_has_taken_the_body_gets_no_other_request(world: World) -> None:
    serve(world)
    client = world.client()
    client.sends(POST)
    replica = await world.replica()
    replica.sends(OK)
    client.take(), replica.take()
    replica.is_stalled = True
    client.sends(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000))
    replica.sends(OK)
    assert (client.take(), replica.is_closed, world.collected_bytes) == (OKAY, True, 0)


class Shouting:
    """Turns an answer into capitals."""

    is_whole = False

    def head(self, status: int, headers: Headers) -> tuple[int, bytes]:
        return status + 1, b"text/loud"

    def body(self, data: bytes) -> bytes:
        return data.upper() if data != b"-" else b""

    def end(self) -> bytes:
        return b"!"


async def test_answer_is_rewritten_part_by_part(world: World) -> None:
    serve(world)
    route = world.routes.by_prefix[b"/proxy/services/main/web"]
    serve(world, Choice(route, b"/generate", b"text", rewriting=Shouting()))
    client = world.client()
    client.sends(POST)
    replica = await world.replica()
    assert replica.take().endswith(b"\r\n\r\ntext")
    replica.sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\n-\r\n")
    head = b"HTTP/1.1 201 Created\r\nContent-Type: text/loud\r\ntransfer-encoding: chunked\r\n\r\n"
    assert client.take() == head + b"2\r\nA-\r\n"
    replica.sends(b"0\r\n\r\n")
    assert client.take() == b"1\r\n!\r\n0\r\n\r\n"
