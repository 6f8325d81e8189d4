"""What an engine's answers mean."""

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from pathlib import Path

import pytest

from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused

DIALING = (
    'connection error: desc = "transport: Error while dialing dial unix /run/containerd.sock: connect: connection '
    'refused": unavailable'
)


@pytest.mark.parametrize(
    ("status", "said", "meaning"),
    [
        (500, DIALING, EngineAway),
        (500, "error reading from server: EOF: unavailable", EngineAway),
        (500, "no space left on device", EngineRefused),
        (400, "the image is: unavailable", EngineRefused),
        (404, "no such container", EngineRefused),
    ],
)
async def test_an_engine_whose_own_parts_are_away_is_away(
    tmp_path: Path, status: int, said: str, meaning: type[Exception]
) -> None:
    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"message": said}).encode()
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        writer.close()

    path = tmp_path / "engine.sock"
    async with await asyncio.start_unix_server(answer, path):
        with pytest.raises(meaning) as caught:
            await ContainerEngine((str(path),)).call("POST", "/containers/1/start")
    assert str(caught.value) == said
