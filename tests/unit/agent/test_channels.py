"""Channels to the ports of jobs, in this process: their bounds, and callers of every kind."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from dstack.agent.connecting import bind_private, connect_to
from dstack.agent.paths import Home, JobFolder, channels_path
from dstack.agent.sshd import channels as served
from dstack.agent.sshd.channels import Channels
from dstack.agent.sshd.inside import Inside
from dstack.hosts.channels import local, open_channel
from dstack.kit.channels import LINE_BYTES_MAX, ChannelRefused, connect
from tests.patience import PATIENCE_S

J = "0-job"


@dataclass(frozen=True)
class Channel:
    socket_path: str
    job_id: str
    port: int


class Door:
    """The inside of a job: its ports are this machine's."""

    def __init__(self) -> None:
        self.is_shut = asyncio.Event()
        self.is_shut.set()

    async def connect(self, host: str, port: int) -> socket.socket:
        await self.is_shut.wait()
        return (await connect_to(("127.0.0.1",), port))[0]


@dataclass
class Host:
    """An agent's folder with one job, and a server in it that echoes."""

    path: Path
    folder: JobFolder
    channels: Channels
    port: int
    door: Door = field(default_factory=Door)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo until the other side ends, then end."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write(b"<end>")
    writer.close()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    home, door = Home(tmp_path), Door()
    folder = home.job(J)
    folder.root.mkdir(parents=True)
    folder.pid.touch()
    channels = Channels(home, lambda folder: cast(Inside, door) if not folder.end.exists() else None)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    path = channels_path(home.root)
    serving = asyncio.create_task(channels.serve(bind_private(path)))
    async with asyncio.timeout(PATIENCE_S):
        yield Host(path, folder, channels, server.sockets[0].getsockname()[1], door)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    server.close()


async def raw(host: Host, question: bytes) -> bytes:
    """Return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(host.path)
    writer.write(question)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def closed(channels: Channels) -> None:
    """Wait until none is open."""
    while channels._open or channels._opening:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.005)


async def test_channel_carries_bytes_both_ways_and_the_end_of_each(host: Host) -> None:
    reader, writer = await open_channel(local(host.path), J, host.port)
    data = bytes(range(256)) * 8000
    writer.write(data)
    writer.write_eof()
    assert await reader.read() == data + b"<end>"
    writer.close()
    await closed(host.channels)


async def test_caller_who_sends_the_question_and_more_at_once_loses_nothing(host: Host) -> None:
    question = json.dumps({"job_id": J, "port": host.port}).encode() + b"\nhello"
    assert await raw(host, question) == b'{"ok": true}\nhello<end>'
    await closed(host.channels)


async def test_socket_itself_is_passed_on_and_outlives_the_channels(host: Host) -> None:
    passed = await connect(Channel(str(host.path), J, host.port))
    await closed(host.channels)
    assert passed.getpeername() == ("127.0.0.1", host.port)
    reader, writer = await asyncio.open_connection(sock=passed)
    writer.write(b"hello")
    assert await reader.read(5) == b"hello"
    writer.close()


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (b"nonsense\n", "the question is not understood"),
        (b"[1]\n", "the question is not understood"),
        (b"[" * 1000 + b"\n", "the question is not understood"),
        (b'{"job_id": "0-job"}\n', "the question is not understood"),
        (b'{"job_id": "0-job", "port": 0}\n', "a channel needs the id of a job, and a port from 1 to 65535"),
        (b'{"job_id": "0-job", "port": true}\n', "a channel needs the id of a job, and a port from 1 to 65535"),
        (b'{"job_id": "../0-job", "port": 1}\n', "`../0-job` cannot be a job's id"),
        (b'{"job_id": "0-other", "port": 1}\n', "the job does not run on the machine"),
        (b'{"job_id": "0-job", "port": 1}\n', "nothing listens at port 1"),
        (b" " * 3 * LINE_BYTES_MAX, "the question is too long"),
    ],
    ids=lambda value: repr(value[:40]),
)
async def test_question_that_opens_no_channel_is_answered_with_the_reason(
    host: Host, question: bytes, error: str
) -> None:
    assert json.loads(await raw(host, question)) == {"error": error}
    await closed(host.channels)


async def test_job_that_has_not_begun_or_has_ended_has_no_channels(host: Host) -> None:
    host.folder.end.touch()
    with pytest.raises(ChannelRefused, match="does not run"):
        await open_channel(local(host.path), J, host.port)
    host.folder.end.unlink()
    host.folder.pid.unlink()
    with pytest.raises(ChannelRefused, match="does not run"):
        await connect(Channel(str(host.path), J, host.port))


async def test_one_job_that_accepts_no_connections_takes_no_channels_from_others(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "CHANNELS_PER_JOB_MAX", 3)
    host.door.is_shut.clear()
    waiting = [asyncio.create_task(open_channel(local(host.path), J, host.port)) for _ in range(3)]
    while host.channels._open[J] < 3:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.005)
    with pytest.raises(ChannelRefused, match="3 channels to the job are open"):
        await open_channel(local(host.path), J, host.port)
    host.door.is_shut.set()
    for _, writer in await asyncio.gather(*waiting):
        writer.close()
    await closed(host.channels)


async def test_silent_caller_is_left_and_more_than_the_bound_are_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "CHANNELS_MAX", 2)
    silent = [await asyncio.open_unix_connection(host.path) for _ in range(2)]
    while len(host.channels._opening) < 2:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.005)
    assert json.loads(await raw(host, b"")) == {"error": "2 channels are open on the machine"}
    for _, writer in silent:
        writer.close()
    await closed(host.channels)
    monkeypatch.setattr(served, "QUESTION_TIMEOUT_S", 0.01)
    reader, writer = await asyncio.open_unix_connection(host.path)
    assert await reader.read() == b""
    writer.close()


async def test_agent_that_is_away_is_not_a_port_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(OSError) as away:
        await connect(Channel(str(tmp_path / "no.sock"), J, 1))
    assert not isinstance(away.value, ChannelRefused)


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"{}\n", b"[1]\n", b'{"ok": true}\n', b"x" * (1 << 20)])
async def test_answer_that_is_none_is_an_error(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "a.sock")
    with pytest.raises(ConnectionError) as refused:
        await connect(Channel(str(tmp_path / "a.sock"), J, 1))
    assert not isinstance(refused.value, ChannelRefused)
    if answer != b'{"ok": true}\n':
        with pytest.raises(ConnectionError):
            await open_channel(local(tmp_path / "a.sock"), J, 1)
    server.close()
