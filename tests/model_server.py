"""A model server for tests, from the standard library alone: OpenAI's API, and that of Text Generation Inference.

`python model_server.py PORT [--model FILE]`. The model is a table of characters (`train`); without one the answers are
scripted words. It remembers its last requests, and names itself in a header, so that a test sees who got what.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

ORDER = 6
REASON = {200: "OK", 400: "Bad Request", 404: "Not Found", 422: "Unprocessable Entity"}
WORDS = ["a", "small", "model", "counts", "tokens", "and", "stops", "at", "the", "end", "of", "its", "line"]

Table = dict[str, dict[str, int]]


def train(text: str) -> Table:
    """Count which character follows each context of up to `ORDER` characters."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for at, character in enumerate(text):
        for size in range(ORDER + 1):
            if size <= at:
                counts[text[at - size : at]][character] += 1
    return {
        context: dict(following) for context, following in counts.items() if sum(following.values()) > 1 or not context
    }


def continued(table: Table, prompt: str, seed: int | None, temperature: float) -> Iterator[str]:
    """Yield the characters that follow a prompt, without end."""
    chance = random.Random(seed)
    text = prompt[-ORDER:]
    while True:
        context = next(text[start:] for start in range(len(text) + 1) if text[start:] in table)
        following = table[context]
        if temperature == 0:
            character = max(following, key=lambda one: (following[one], one))
        else:
            weights = [count ** (1 / temperature) for count in following.values()]
            character = chance.choices(list(following), weights)[0]
        yield character
        text = (text + character)[-ORDER:]


class ModelServer:
    """One replica."""

    def __init__(self, name: str = "replica", table: Table | None = None, pause_s: float = 0.0) -> None:
        self.name = name
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        """Method, target, headers and body of each."""
        self.info: dict[str, Any] = {"model_id": "tests/tiny", "model_sha": "main"}
        self.stream_of_generate: list[bytes] | None = None
        """What `/generate_stream` sends instead, part by part."""
        self.answer_of_generate: tuple[int, Any] | None = None
        self._table = table
        self._pause_s = pause_s
        self._ids = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=64 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving)

    async def forever(self) -> None:
        assert self._server is not None
        await self._server.serve_forever()

    # HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((method, target, headers, body))
        path = target.partition("?")[0]
        if method == "GET":
            await self._whole(writer, *self._get(path))
        else:
            await self._post(writer, path, json.loads(body))
        return headers.get("connection") != "close"

    def _get(self, path: str) -> tuple[int, Any]:
        known: dict[str, Any] = {
            "/health": {"ok": True},
            "/info": self.info,
            "/v1/models": {"object": "list", "data": []},
        }
        return (200, known[path]) if path in known else (404, {"error": f"nothing at {path}"})

    async def _post(self, writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        match path:
            case "/v1/chat/completions" | "/v1/completions":
                await self._complete(writer, asked, is_chat=path.endswith("chat/completions"))
            case "/v1/embeddings":
                await self._whole(writer, 200, self._embeddings(asked))
            case "/v1/responses":
                await self._respond(writer, asked)
            case "/generate":
                await self._generate(writer, asked)
            case "/generate_stream":
                await self._events(writer, self._generated(asked), done=False)
            case _:
                await self._whole(writer, 404, {"error": f"nothing at {path}"})

    async def _whole(self, writer: asyncio.StreamWriter, status: int, value: Any, lines: str = "") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f"HTTP/1.1 {status} {REASON[status]}\r\ncontent-type: application/json\r\nx-replica: {self.name}\r\n"
        writer.write(f"{head}{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def _events(self, writer: asyncio.StreamWriter, events: AsyncIterator[Any], done: bool = True) -> None:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
        writer.write(f"{head}x-replica: {self.name}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        async for event in events:
            data = event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        if done:
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    # OpenAI

    def _tokens(self, prompt: str, asked: dict[str, Any], count: int) -> list[str]:
        if self._table is None:
            return [f"{word} " for word in itertools.islice(itertools.cycle(WORDS), count)]
        temperature = asked.get("temperature")
        following = continued(self._table, prompt, asked.get("seed"), 1.0 if temperature is None else temperature)
        return list(itertools.islice(following, count))

    async def _complete(self, writer: asyncio.StreamWriter, asked: dict[str, Any], is_chat: bool) -> None:
        prompt = _prompt_of(asked["messages"]) if is_chat else asked["prompt"]
        tokens = self._tokens(prompt, asked, asked.get("max_tokens") or 20)
        frame = {"id": f"chatcmpl-{next(self._ids)}", "created": 1_700_000_000, "model": asked["model"]}
        kind = "chat.completion" if is_chat else "text_completion"
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(tokens),
            "total_tokens": len(prompt) + len(tokens),
        }
        if asked.get("stream"):
            await self._events(writer, self._chunks(frame, tokens, asked, is_chat, usage))
            return
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        if asked.get("tools"):
            function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
            call = {"id": "call_1", "type": "function", "function": function}
            choice |= {
                "finish_reason": "tool_calls",
                "message": {"role": "assistant", "content": None, "tool_calls": [call]},
            }
        elif is_chat:
            choice["message"] = {"role": "assistant", "content": "".join(tokens), "reasoning": "short"}
        else:
            choice["text"] = "".join(tokens)
        await self._whole(writer, 200, {**frame, "object": kind, "choices": [choice], "usage": usage})

    async def _chunks(
        self, frame: dict[str, Any], tokens: list[str], asked: dict[str, Any], is_chat: bool, usage: dict[str, int]
    ) -> AsyncIterator[Any]:
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        if is_chat:
            yield {**frame, "object": kind, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
        yield b": a comment, as servers send it to keep a connection\n\n"
        for token in tokens:
            await asyncio.sleep(self._pause_s)
            part = {"delta": {"content": token}} if is_chat else {"text": token}
            yield {**frame, "object": kind, "choices": [{"index": 0, "finish_reason": None, **part}]}
        end: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
        yield {**frame, "object": kind, "choices": [{"index": 0, "finish_reason": "length", **end}]}
        if (asked.get("stream_options") or {}).get("include_usage"):
            yield {**frame, "object": kind, "choices": [], "usage": usage}

    def _embeddings(self, asked: dict[str, Any]) -> dict[str, Any]:
        texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        vectors = [[float(text.count(character)) for character in "etaoins"] for text in texts]
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return {"object": "list", "model": asked["model"], "data": data, "usage": usage}

    async def _respond(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        text = "".join(self._tokens(str(asked["input"]), asked, asked.get("max_output_tokens") or 20))
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
        whole = {
            **{"id": "resp_1", "object": "response", "created_at": 1_700_000_000, "status": "completed"},
            **{
                "model": asked["model"],
                "output": [message],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
            },
        }
        if not asked.get("stream"):
            await self._whole(writer, 200, whole)
            return

        async def events() -> AsyncIterator[bytes]:
            for at, word in enumerate(text.split()):
                delta = {"type": "response.output_text.delta", "sequence_number": at, "item_id": "msg_1", "delta": word}
                delta |= {"output_index": 0, "content_index": 0, "logprobs": []}
                yield b"event: response.output_text.delta\ndata: " + json.dumps(delta).encode() + b"\n\n"
            end = {"type": "response.completed", "sequence_number": 1000, "response": whole}
            yield b"event: response.completed\ndata: " + json.dumps(end).encode() + b"\n\n"

        await self._events(writer, events(), done=False)

    # Text Generation Inference

    async def _generate(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        if self.answer_of_generate is not None:
            await self._whole(writer, *self.answer_of_generate)
            return
        if (asked["parameters"].get("temperature") or 1) < 0:
            reason = "Input validation error: `temperature` must be strictly positive"
            await self._whole(writer, 422, {"error": reason, "error_type": "validation"})
            return
        tokens, stop = self._until_stop(asked)
        details = {"finish_reason": "stop_sequence" if stop else "length", "generated_tokens": len(tokens), "seed": 1}
        lines = f"x-prompt-tokens: {len(asked['inputs'])}\r\nx-generated-tokens: {len(tokens)}\r\n"
        await self._whole(writer, 200, {"generated_text": "".join(tokens), "details": details}, lines)

    def _until_stop(self, asked: dict[str, Any]) -> tuple[list[str], bool]:
        """The tokens up to the first stop text, which is the end of them."""
        tokens = self._tokens(asked["inputs"], asked["parameters"], asked["parameters"].get("max_new_tokens", 20))
        for count in range(1, len(tokens) + 1):
            if any("".join(tokens[:count]).rstrip().endswith(stop) for stop in asked["parameters"].get("stop", [])):
                return [*tokens[: count - 1], tokens[count - 1].rstrip()], True
        return tokens, False

    async def _generated(self, asked: dict[str, Any]) -> AsyncIterator[Any]:
        for part in self.stream_of_generate or ():
            yield part
        if self.stream_of_generate is not None:
            return
        tokens, stop = self._until_stop(asked)
        for at, token in enumerate(tokens, 1):
            await asyncio.sleep(self._pause_s)
            event = {
                "index": at,
                "token": {"id": at, "text": token, "logprob": -0.5, "special": False},
                "top_tokens": [],
            }
            is_last = at == len(tokens)
            reason = "stop_sequence" if stop else "length"
            details = {
                "finish_reason": reason,
                "generated_tokens": at,
                "seed": None,
                "input_length": len(asked["inputs"]),
            }
            yield event | {
                "generated_text": "".join(tokens) if is_last else None,
                "details": details if is_last else None,
            }


def _prompt_of(messages: list[dict[str, Any]]) -> str:
    content = messages[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    asked = parser.parse_args()
    table = json.loads(asked.model.read_text(encoding="utf-8")) if asked.model else None
    server = ModelServer(os.environ.get("DSTACK_JOB_ID", "replica"), table, asked.pause)
    await server.start(asked.port)
    print(f"serving at {server.port}", flush=True)
    await server.forever()


if __name__ == "__main__":
    asyncio.run(main())
