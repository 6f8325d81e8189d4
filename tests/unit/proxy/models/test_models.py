"""Requests of OpenAI's API through a data plane, sent by the official client and by hand."""

import asyncio
import json
from typing import Any

import openai
import pytest

from dstack.protocol.proxy import Limit
from dstack.proxy import collecting
from tests.model_server import WORDS, ModelServer
from tests.unit.proxy.models.conftest import FOREIGN, TOKEN, Plane, service

Messages = Any
HELLO: Messages = [{"role": "user", "content": "hello"}]


def scripted(count: int) -> str:
    return "".join(f"{WORDS[at % len(WORDS)]} " for at in range(count))


async def test_official_client_chats_whole_and_as_a_stream(plane: Plane) -> None:
    plane.follow(service("llama", await plane.server()))
    client = plane.client()
    whole = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=7)
    assert (whole.choices[0].message.content, whole.usage and whole.usage.completion_tokens) == (scripted(7), 7)
    stream = await client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=30, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == scripted(30)
    assert chunks[-1].usage is not None


async def test_official_client_has_its_other_endpoints(plane: Plane) -> None:
    plane.follow(service("llama", await plane.server()))
    client = plane.client()
    completion = await client.completions.create(model="tiny", prompt="once", max_tokens=3)
    assert completion.choices[0].text == scripted(3)
    embeddings = await client.embeddings.create(model="tiny", input=["tee", "sea"], encoding_format="float")
    assert [len(one.embedding) for one in embeddings.data] == [7, 7]
    response = await client.responses.create(model="tiny", input="once", max_output_tokens=3)
    assert response.output_text == scripted(3)
    events = [event.type async for event in await client.responses.create(model="tiny", input="once", stream=True)]
    assert (events.count("response.output_text.delta"), events[-1]) == (20, "response.completed")


async def test_official_client_sends_tools_and_images(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("llama", server))
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    answer = await plane.client().chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [{"type": "text", "text": "where is this?"}, image]}],
        tools=[tool],
        tool_choice="auto",
    )
    assert [call.function.name for call in answer.choices[0].message.tool_calls or ()] == ["weather"]
    received = json.loads(server.requests[0][3])
    assert (received["messages"][0]["content"][1], received["tools"]) == (image, [tool])


@pytest.mark.parametrize("name", ["meta/llama", "größe/模型:7b", "a b?c#d%2Fe&f+g", "../models", "-"])
async def test_official_client_finds_a_model_of_any_name(plane: Plane, name: str) -> None:
    plane.follow(service("llama", await plane.server(), model=name))
    client = plane.client()
    assert [one.id async for one in client.models.list()] == [name]
    assert (await client.models.retrieve(name)).id == name
    answer = await client.chat.completions.create(model=name, messages=HELLO, max_tokens=1)
    assert answer.choices[0].message.content == scripted(1)


async def test_official_client_raises_its_usual_exceptions(plane: Plane) -> None:
    dead = ModelServer()
    await dead.start()
    await dead.close()
    limits = (Limit("/v1/embeddings", rps=0.001, burst=0),)
    plane.follow(
        service("llama", await plane.server(), limits=limits),
        service("dead", dead, model="dead"),
        service("late", model="late", waits_for="replica 0 pulls its image"),
    )
    client = plane.client()

    async def fails(kind: type[openai.APIStatusError], code: str, model: str, client: openai.AsyncOpenAI) -> str:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model=model, messages=HELLO)
        assert (type(caught.value), caught.value.code) == (kind, code)
        return str(caught.value)

    await fails(openai.AuthenticationError, "unauthorized", "tiny", plane.client("wrong"))
    await fails(openai.PermissionDeniedError, "forbidden", "tiny", plane.client(FOREIGN))
    assert "dead, late, tiny" in await fails(openai.NotFoundError, "model_not_found", "nothing", client)
    await fails(openai.BadRequestError, "invalid_request", "", client)
    assert "service dead failed: it cannot" in await fails(openai.InternalServerError, "replica_failed", "dead", client)
    assert "pulls its image" in await fails(openai.InternalServerError, "no_replica", "late", client)
    await client.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.RateLimitError) as caught:
        await client.embeddings.create(model="tiny", input="x")
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_body_goes_on_byte_for_byte(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("llama", server))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBOR" * 50_000}}
    asked = {
        **{"unknown": {"é": [1.50, None, "\u2028"]}, "model": "tiny", "tools": [{"function": {"name": "weather"}}]},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}],
    }
    body = json.dumps(asked, indent=3).encode() + b"\n\n"
    answer = await plane.send("main/chat/completions?beta=1&x=%20", body, headers={"x-request-id": "7", "te": "gzip"})
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    method, target, headers, received = server.requests[0]
    assert (method, target, received) == ("POST", "/v1/chat/completions?beta=1&x=%20", body)
    assert headers["x-request-id"] == "7"
    assert "authorization" not in headers, "the token of a member is none of the model's business"


async def test_chunked_body_is_collected(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("llama", server))
    body = json.dumps({"model": "tiny", "messages": HELLO}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
    head = f"POST /proxy/models/main/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
    writer.write(f"{head}expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    for byte in body:
        writer.write(b"1\r\n%c\r\n" % byte)
    writer.write(b"0\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    assert server.requests[0][3] == body
    writer.close()


async def test_models_of_a_project_are_listed(plane: Plane) -> None:
    plane.follow(
        service("a", model="meta/llama", created_at=200),
        service("b", model="meta/llama", created_at=100),
        service("c", model="tiny", created_at=300),
        service("d", model="foreign", project="other"),
    )
    client = plane.client()
    listed = [(one.id, one.created, one.owned_by) async for one in client.models.list()]
    assert listed == [("meta/llama", 100, "main"), ("tiny", 300, "main")]
    assert (await client.models.retrieve("meta/llama")).created == 100
    with pytest.raises(openai.NotFoundError, match=r"no model 'nothing'.*meta/llama, tiny"):
        await client.models.retrieve("nothing")


async def test_model_of_several_services_has_all_their_replicas(plane: Plane) -> None:
    servers = [await plane.server(name) for name in ("a", "b", "c")]
    plane.follow(service("one", servers[0], servers[1]), service("two", servers[2], prefix="/v1/"))
    for _ in range(6):
        await plane.send("main/chat/completions", {"model": "tiny", "messages": HELLO})
    assert [len(server.requests) for server in servers] == [2, 2, 2]


async def test_service_that_changes_its_model_leaves_the_old_one(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("llama", server, model="old"))
    plane.follow(service("llama", server, model="new"))
    assert [one.id async for one in plane.client().models.list()] == ["new"]
    assert (await plane.send("main/completions", {"model": "old", "prompt": ""})).status_code == 404
    assert (await plane.send("main/completions", {"model": "new", "prompt": "", "max_tokens": 1})).status_code == 200
    plane.follow()
    assert [one.id async for one in plane.client().models.list()] == []


async def test_service_that_keeps_its_prefix_receives_the_whole_path(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("llama", server, strip_prefix=False))
    await plane.send("main/chat/completions", {"model": "tiny", "messages": HELLO})
    assert server.requests[0][1] == "/proxy/services/main/llama/v1/chat/completions"


async def test_unreachable_replica_is_skipped_and_a_service_without_any_says_why(plane: Plane) -> None:
    dead = ModelServer()
    await dead.start()
    await dead.close()
    living = await plane.server()
    plane.follow(service("llama", dead, living))
    for _ in range(4):
        assert (await plane.send("main/chat/completions", {"model": "tiny", "messages": HELLO})).status_code == 200
    plane.follow(service("llama", waits_for="replica 0 is pulling"))
    answer = await plane.send("main/chat/completions", {"model": "tiny", "messages": HELLO})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["message"] == "No replica of the model tiny is ready: replica 0 is pulling"


async def test_service_whose_replicas_are_unreachable_leaves_requests_to_another(plane: Plane) -> None:
    dead, living = ModelServer(), await plane.server()
    await dead.start()
    await dead.close()
    plane.follow(service("a", dead), service("b", living, prefix="/v1/"))
    asked = {"model": "tiny", "messages": HELLO}
    assert [(await plane.send("main/chat/completions", asked)).status_code for _ in range(4)] == [200] * 4
    first, second = plane.data_plane.routes.of_model("main", "tiny")
    assert (first.sums.requests, first.sums.errors, first.sums.in_flight) == (1, 1, 0)
    assert (second.sums.requests, second.sums.errors, second.sums.in_flight) == (4, 0, 0)
    plane.follow(service("a", dead), service("b", dead))
    answer = await plane.send("main/chat/completions", asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "replica_failed")


# Rights


async def test_model_without_auth_is_open_to_all_and_no_other(plane: Plane) -> None:
    open_one, closed = await plane.server(), await plane.server()
    plane.follow(service("a", open_one, model="open", auth=False), service("b", closed, model="closed"))
    for token in (None, "any-text", FOREIGN):
        answer = await plane.send("main/models", token=token, method="GET")
        assert [one["id"] for one in answer.json()["data"]] == ["open"]
        answer = await plane.send("main/completions", {"model": "open", "prompt": "", "max_tokens": 1}, token)
        assert answer.status_code == 200
        for name in ("closed", "nothing"):
            answer = await plane.send("main/completions", {"model": name, "prompt": ""}, token)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
            assert "closed" not in answer.text.replace(f"'{name}'", "")
    assert closed.requests == []
    assert open_one.requests[1][2]["authorization"] == "Bearer any-text", "it may be the model server's own key"


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("wrong", 401), (FOREIGN, 403)])
async def test_caller_without_right_learns_no_model(plane: Plane, token: str | None, status: int) -> None:
    server = await plane.server()
    plane.follow(service("llama", server))
    for method, path in (("GET", "main/models"), ("GET", "main/models/tiny"), ("POST", "main/chat/completions")):
        answer = await plane.send(path, json.dumps({"model": "tiny"}).encode(), token, method)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
        assert "tiny" not in answer.text
    assert server.requests == []


async def test_member_of_another_project_has_its_own_models(plane: Plane) -> None:
    plane.follow(service("llama", await plane.server()), service("llama-2", project="other", model="theirs"))
    client = plane.client(FOREIGN, "other")
    assert [one.id async for one in client.models.list()] == ["theirs"]
    with pytest.raises(openai.NotFoundError, match=r"The project other has no model 'tiny'.*theirs"):
        await client.chat.completions.create(model="tiny", messages=HELLO)
    with pytest.raises(openai.PermissionDeniedError):
        await plane.client(FOREIGN).chat.completions.create(model="tiny", messages=HELLO)


async def test_rate_limit_of_a_service_holds_for_its_model(plane: Plane) -> None:
    plane.follow(service("llama", await plane.server(), limits=(Limit("/v1/chat", rps=0.001, burst=1),)))
    asked = {"model": "tiny", "messages": HELLO, "prompt": "", "max_tokens": 1}
    answers = [(await plane.send("main/chat/completions", asked)).status_code for _ in range(3)]
    assert answers == [200, 200, 429]
    assert (await plane.send("main/completions", asked)).status_code == 200


# Bad input


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"model": "tiny"', "not JSON"),
        (b'{"model": "tiny"} {}', "not JSON"),
        (b'{"model": "\xff"}', "not JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Expected `model` to be the name of a model"),
        (b'{"model": 7}', "Expected `str`, got `int`"),
        (b'{"model": null}', "Expected `str`, got `null`"),
        (b'{"model": ["tiny"]}', "Expected `str`, got `array`"),
        (b'{"model": ""}', "found an empty text"),
        (b'{"model": "tiny", "messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"x": ' + b'{"a":' * 200_000, "nested too deeply"),
    ],
)
async def test_bad_body_is_refused_in_the_form_of_the_api(plane: Plane, body: bytes, reason: str) -> None:
    server = await plane.server()
    plane.follow(service("llama", server))
    answer = await plane.send("main/chat/completions", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_request")
    assert reason in error["message"]
    assert server.requests == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "main/chat/completions", 405),
        ("POST", "main/models", 405),
        ("DELETE", "main/models/tiny", 405),
        ("POST", "main/audio/speech", 404),
        ("POST", "main/chat/completions/..%2f..%2fx", 404),
        ("POST", "main/chat", 404),
        ("GET", "main/", 404),
        ("GET", "main", 404),
    ],
)
async def test_path_or_method_that_is_not_there_is_refused(plane: Plane, method: str, path: str, status: int) -> None:
    plane.follow(service("llama", await plane.server()))
    answer = await plane.send(path, b'{"model": "tiny"}', method=method)
    assert (answer.status_code, set(answer.json()["error"])) == (status, {"message", "type", "param", "code"})


async def test_huge_body_is_refused_before_it_arrives(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("llama", server))
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
    size = collecting.BODY_BYTES_MAX + 1
    head = f"POST /proxy/models/main/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
    writer.write(f"{head}content-length: {size}\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["code"] == "too_large"
    writer.close()


async def test_hostile_name_of_a_model_is_shown_in_part(plane: Plane) -> None:
    plane.follow(service("llama", await plane.server()))
    answer = await plane.send("main/completions", {"model": "\r\nx: y\0" * 100_000})
    assert (answer.status_code, len(answer.content) < 1000) == (404, True)


# Streams


async def test_many_streams_at_once_are_whole_and_in_order(plane: Plane) -> None:
    streams, tokens = 200, 60
    server = await plane.server(pause_s=0.02)  # 50 tokens a second for each
    plane.follow(service("llama", server))
    body = json.dumps({"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": tokens}).encode()

    async def one() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        head = f"POST /proxy/models/main/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        received = await reader.read()
        writer.close()
        lines = [line[6:] for line in received.split(b"\n") if line.startswith(b"data: ")]
        assert lines[-1] == b"[DONE]"
        chunks = [json.loads(line) for line in lines[:-1]]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    assert await asyncio.gather(*(one() for _ in range(streams))) == [scripted(tokens)] * streams


async def test_client_that_leaves_a_stream_ends_it_at_the_replica(plane: Plane) -> None:
    server = await plane.server(pause_s=0.01)
    plane.follow(service("llama", server))
    ended = asyncio.Event()
    plane.data_plane.on_answer = lambda *_: ended.set()
    stream = await plane.client().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=1_000_000, stream=True
    )
    async for _ in stream:
        break
    await stream.close()
    await ended.wait()
    (state,) = plane.data_plane.routes.of_model("main", "tiny")[0].replicas.ready
    assert state.outstanding == 0
