"""Channels: the one way to a port of a job, through a unix socket that the job's agent listens at.

One connection is one channel. The caller sends `{"job_id", "port"}` as a line of JSON, and receives a line: `{"ok":
true}`, or an `error` for people. After an `ok` come the bytes of the port. On the same machine the caller may add
`"fd": true`. The connected socket itself then comes along with the answer, and the agent is out of the way.
"""

import asyncio
import json
import os
import socket
from typing import Any, Protocol

# Windows has neither: sockets of this machine's agent are where agents are.
_AF_UNIX: int = getattr(socket, "AF_UNIX", -1)
_receive: Any = getattr(socket, "recv_fds", None)

LINE_BYTES_MAX = 4096
"""Of the question, and of the answer."""
OPEN_TIMEOUT_S = 30.0
"""For an answer. The agent gives up a connection sooner, and answers with the reason."""


class ChannelRefused(ConnectionError):
    """The agent answers, and the port does not: nothing listens there, or the job does not run there."""


class Channel(Protocol):
    """A port of a job, and the way to its agent."""

    @property
    def socket_path(self) -> str:
        """The unix socket of the job's agent."""

    @property
    def job_id(self) -> str:
        """The job's id."""

    @property
    def port(self) -> int:
        """The port, as the job itself knows it."""


def question(job_id: str, port: int, *, fd: bool = False) -> bytes:
    """Return the line that opens a channel."""
    return json.dumps({"job_id": job_id, "port": port, **({"fd": True} if fd else {})}).encode() + b"\n"


def check_answer(line: bytes) -> None:
    """Judge the answer of an agent.

    Raises:
        ChannelRefused: it has the reason why there is no channel.
        ConnectionError: it is not an answer.
    """
    try:
        answer: Any = json.loads(line)
        refusal = None if answer.get("ok") is True else str(answer["error"])
    except (ValueError, AttributeError, KeyError, RecursionError):
        raise ConnectionError(f"the agent answered {line!r:.100} instead of opening a channel") from None
    if refusal is not None:
        raise ChannelRefused(refusal)


async def connect(channel: Channel) -> socket.socket:
    """Return a socket that is connected to a port of a job on this machine. It does not block.

    Raises:
        ChannelRefused: the agent answers, and the port does not.
        OSError: the agent does not answer: nothing is known about the port. It may answer a moment later.
        TimeoutError: the agent does not answer in time.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(_AF_UNIX) as line:
        line.setblocking(False)
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await loop.sock_connect(line, channel.socket_path)
            await loop.sock_sendall(line, question(channel.job_id, channel.port, fd=True))
            answer, connected = await _received(line)
    try:
        check_answer(answer)
        if connected is None:
            raise ConnectionError("the agent passed no socket")
    except ConnectionError:
        if connected is not None:
            connected.close()
        raise
    connected.setblocking(False)
    return connected


async def _received(line: socket.socket) -> tuple[bytes, socket.socket | None]:
    """Return an answer, which is short and comes at once, and the socket that comes with it."""
    while True:
        try:
            received, descriptors, *_ = _receive(line, LINE_BYTES_MAX, 1)
            if not descriptors:
                return received, None
            os.set_inheritable(descriptors[0], False)  # as all others of this process
            return received, socket.socket(fileno=descriptors[0])
        except BlockingIOError:
            await _readable(line)


async def _readable(line: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(line, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(line)
