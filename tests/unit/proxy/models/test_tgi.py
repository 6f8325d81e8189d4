"""Chats for Text Generation Inference: its requests, and its answers in the form of OpenAI's API."""

import json
from typing import Any

import openai
import pytest

from dstack.proxy.answers import Refusal
from dstack.proxy.models import tgi
from dstack.proxy.models.tgi_answers import Identity, Stream, WholeAnswer
from tests.model_server import ModelServer
from tests.unit.proxy.models.conftest import TEMPLATE, Plane, service
from tests.unit.proxy.models.test_models import HELLO, scripted

MARKS = Identity("chatcmpl-1", 1_700_000_000)


def chat_body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "messages": HELLO, **fields}).encode()


def sent(body: bytes, eos_token: str | None = None) -> dict[str, Any]:
    """What a replica gets for a chat."""
    chat = tgi.read_chat(body)
    generate: dict[str, Any] = json.loads(tgi.body_of(chat, tgi.wanted_of(chat, eos_token), "prompt"))
    assert generate["inputs"] == "prompt"
    parameters: dict[str, Any] = generate["parameters"]
    assert parameters.pop("details") is True
    return parameters


def wanted(*stops: str, is_stream: bool = True, is_chat: bool = True) -> tgi.Wanted:
    return tgi.Wanted("tiny", is_chat, is_stream, True, stops)


def event(text: str, **fields: Any) -> bytes:
    token = {"id": 1, "text": text, "logprob": -1.0, "special": fields.pop("special", False)}
    return (
        b"data:"
        + json.dumps({"index": 1, "token": token, "generated_text": None, "details": None, **fields}).encode()
        + b"\n\n"
    )


def last(text: str, reason: str = "stop_sequence") -> bytes:
    details = {"finish_reason": reason, "generated_tokens": 4, "input_length": 6}
    return event(text, generated_text="all", details=details)


def read(stream: bytes) -> tuple[str, list[Any]]:
    """The text of a stream of chunks, and all that it has."""
    data = [line[6:] for line in stream.split(b"\n\n") if line]
    chunks = [json.loads(one) for one in data if one != b"[DONE]"]
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if one.get("choices"))
    return text, [*chunks, *(["[DONE]"] if data[-1] == b"[DONE]" else [])]


@pytest.fixture
async def server(plane: Plane) -> ModelServer:
    """A replica with TGI's API, behind the model `tiny`."""
    server = await plane.server()
    plane.follow(service("tgi", server, format="tgi", chat_template=TEMPLATE, eos_token="</s>"))
    return server


# Requests


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, {}),
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_new_tokens": 6}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9, "do_sample": True}),
        ({"temperature": 1, "top_p": 1}, {"temperature": 1.0, "do_sample": True}),
        ({"temperature": 0, "top_p": 0.5}, {"do_sample": False}),
        ({"top_p": 1}, {}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": ["x", "y", "x", ""]}, {"stop": ["x", "y"]}),
        ({"stop": None, "seed": 7, "n": 1}, {"seed": 7}),
        ({"frequency_penalty": 0.5, "presence_penalty": 0}, {"frequency_penalty": 0.5}),
        (
            {"top_k": 3, "repetition_penalty": 1.1, "truncate": 9},
            {"top_k": 3, "repetition_penalty": 1.1, "truncate": 9},
        ),
        ({"tools": [], "tool_choice": "none", "user": "ada", "metadata": {"a": 1}, "logprobs": False}, {}),
    ],
)
def test_parameters_have_the_names_of_tgi(fields: dict[str, Any], parameters: dict[str, Any]) -> None:
    assert sent(chat_body(**fields)) == parameters


def test_end_token_of_the_model_is_one_more_stop() -> None:
    assert sent(chat_body(stop="x"), "</s>") == {"stop": ["x", "</s>"]}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [{"type": "function"}]}, "has no `tools`"),
        ({"response_format": {"type": "json_object"}}, "has no `response_format`"),
        ({"logprobs": True}, "has no `logprobs`"),
        ({"presence_penalty": 0.5}, "has no `presence_penalty`"),
        ({"n": 2}, "gives one answer, found `n: 2`"),
        ({"stop": ["x"] * 17}, "at most 16 texts in `stop`, found 17"),
        ({"max_tokens": "many"}, "Expected `int | null`, got `str`"),
        ({"messages": []}, "at least one message"),
        ({"messages": "hello"}, "Expected `array`, got `str`"),
        ({"messages": [{"content": "hello"}]}, "to have a `role`"),
        ({"messages": [{"role": "user", "content": 7}]}, "to be text, or a list of parts"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "found 'image_url'"),
    ],
)
def test_request_beyond_tgi_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        sent(chat_body(**fields))
    assert caught.value.status == 400
    assert reason in caught.value.message


def test_parts_of_a_message_become_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    chat = tgi.read_chat(
        chat_body(messages=[{"role": "user", "content": parts}, {"role": "assistant", "content": None}])
    )
    assert [message["content"] for message in chat.messages] == ["one\ntwo", ""]


# Answers


def test_stop_text_across_tokens_is_no_part_of_the_stream() -> None:
    stream = Stream(wanted("\nUser:"), MARKS)
    assert stream.head(200, []) == (200, b"text/event-stream")
    out = (
        b"".join(map(stream.body, (event("Hi"), event("\nUs"), event("age"), event("\nUser"), last(":"))))
        + stream.end()
    )
    text, chunks = read(out)
    assert text == "Hi\nUsage"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hi"}
    assert chunks[-3]["choices"][0] == {"index": 0, "logprobs": None, "finish_reason": "stop", "delta": {}}
    assert chunks[-2]["usage"] == {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
    assert chunks[-1] == "[DONE]"


def test_held_text_comes_once_the_answer_ends_without_a_stop() -> None:
    stream = Stream(wanted("\nUser:"), MARKS)
    text, chunks = read(stream.body(event("Hi")) + stream.body(last("\nUse", "length")))
    assert (text, chunks[-3]["choices"][0]["finish_reason"]) == ("Hi\nUse", "length")


def test_events_are_found_however_they_are_cut() -> None:
    whole = event("ä") + b": comment\n\n" + event("</s>", special=True) + last("!", "eos_token")
    expected = Stream(wanted(), MARKS).body(whole)
    for size in (1, 2, 7, 100):
        stream = Stream(wanted(), MARKS)
        assert b"".join(stream.body(whole[at : at + size]) for at in range(0, len(whole), size)) == expected
    assert read(expected)[0] == "ä!"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (event("a") + b'data:{"error":"CUDA out of memory","error_type":"generation"}\n\n', "CUDA out of memory"),
        (event("a") + b"data: <html>\n\n", "not one of Text Generation Inference"),
        (event("a") + b"data: " + b"[" * 100_000 + b"\n\n", "not one of Text Generation Inference"),
        (event("a") + b"data: " + b"x" * (2 << 20), "too large"),
        (event("a"), "ended before its answer"),
    ],
)
def test_stream_that_fails_ends_with_an_error(data: bytes, reason: str) -> None:
    stream = Stream(wanted(), MARKS)
    text, chunks = read(stream.body(data) + stream.body(event("never")) * (reason[:5] != "ended") + stream.end())
    assert text == "a"
    assert reason in chunks[-1]["error"]["message"]


def test_refusal_of_a_replica_has_the_form_of_the_api() -> None:
    parts = (b'{"error":"`inputs` tokens + `max_new_tokens` must be <= 2048",', b'"error_type":"validation"}')
    stream, whole = Stream(wanted(), MARKS), WholeAnswer(wanted(is_stream=False), MARKS)
    assert stream.head(422, []) == (422, b"application/json")
    for part in parts:
        assert stream.body(part) == whole.body(part) == b""
    assert whole.head(422, []) == (422, b"application/json")
    for rewriting in (stream, whole):
        error = json.loads(rewriting.end())["error"]
        assert (error["type"], error["message"][-15:]) == ("invalid_request_error", "must be <= 2048")


@pytest.mark.parametrize("data", [b"<html>", b"{}", b"[" * 100_000, b'{"generated_text": 7}', b"x" * (17 << 20)])
def test_garbage_of_a_replica_is_a_server_error(data: bytes) -> None:
    answer = WholeAnswer(wanted(is_stream=False), MARKS)
    answer.body(data)
    assert answer.head(200, [])[0] == 502
    assert json.loads(answer.end())["error"]["type"] == "server_error"


def test_whole_answer_has_usage_where_the_replica_reports_it() -> None:
    details = {"finish_reason": "eos_token", "generated_tokens": 2, "prefill": [], "tokens": []}
    data = json.dumps({"generated_text": "Hi</s>", "details": details}).encode()
    for headers, usage in (
        ([(b"X-Prompt-Tokens", b"5")], {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}),
        ([], None),
    ):
        answer = WholeAnswer(wanted("</s>", is_stream=False), MARKS)
        answer.body(data)
        assert answer.head(200, headers) == (200, b"application/json")
        whole = json.loads(answer.end())
        assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Hi"}
        assert (whole["choices"][0]["finish_reason"], whole.get("usage")) == ("stop", usage)


# The whole way


async def test_official_client_chats_with_tgi(plane: Plane, server: ModelServer) -> None:
    client = plane.client()
    whole = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=7, temperature=0)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (scripted(7), "length")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 7
    method, target, headers, body = server.requests[0]
    assert (method, target, json.loads(body)["inputs"]) == ("POST", "/generate", "<user>hello</s><assistant>")
    assert "authorization" not in headers
    stream = await client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=30, stream=True, stop="counts", stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "a small model "
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert server.requests[1][1] == "/generate_stream"


async def test_completions_need_no_template(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("tgi", server, format="tgi"))
    client = plane.client()
    whole = await client.completions.create(model="tiny", prompt="once", max_tokens=3)
    assert whole.choices[0].text == scripted(3)
    stream = await client.completions.create(model="tiny", prompt=["once"], max_tokens=3, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == scripted(3)
    with pytest.raises(openai.BadRequestError, match="takes one prompt, found 2"):
        await client.completions.create(model="tiny", prompt=["once", "twice"])


@pytest.mark.parametrize("endpoint", ["embeddings", "responses"])
async def test_endpoint_that_tgi_lacks_is_refused(plane: Plane, server: ModelServer, endpoint: str) -> None:
    answer = await plane.send(f"main/{endpoint}", {"model": "tiny", "input": "x"})
    message = f"The model tiny has no {endpoint}: its `format` is `tgi`. It has chat/completions and completions"
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, message)


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ((422, {"error": "too long", "error_type": "validation"}), 422, "too long"),
        ((200, b"<html>"), 502, "not one of Text Generation Inference"),
    ],
)
async def test_refusal_and_garbage_of_tgi_reach_the_client_as_errors(
    plane: Plane, server: ModelServer, answer: Any, status: int, reason: str
) -> None:
    server.answer_of_generate = answer
    with pytest.raises(openai.APIStatusError, match=reason) as caught:
        await plane.client().chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.status_code == status


async def test_garbage_in_a_stream_reaches_the_client_as_an_error(plane: Plane, server: ModelServer) -> None:
    server.stream_of_generate = [event("a"), b"data:<html>\n\n"]
    stream = await plane.client().chat.completions.create(model="tiny", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="not one of Text Generation Inference"):
        async for chunk in stream:
            assert chunk.choices[0].delta.content == "a"
