"""Channels to the ports of jobs, for programs of this user; `kit.channels` has their protocol.

They are opened here, since this process enters containers, and since their bytes must not delay the agent.
"""

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dstack.agent.connecting import refusal_text
from dstack.agent.containers.api import EngineAway, EngineRefused
from dstack.agent.paths import Home, JobFolder
from dstack.agent.sshd.forwards import relay
from dstack.agent.sshd.inside import Inside
from dstack.errors import AgentRefused
from dstack.kit.channels import LINE_BYTES_MAX

log = logging.getLogger(__name__)

CHANNELS_MAX = 1000
"""Those that are being opened or carried here. A channel whose socket was passed on is not counted."""
CHANNELS_PER_JOB_MAX = 250
QUESTION_TIMEOUT_S = 10.0
BACKLOG = 512
ACCEPT_RETRY_S = 0.1
OPEN = b'{"ok": true}\n'


class _Refused(Exception):
    """There is no channel; the reason is for people."""


@dataclass(frozen=True, slots=True)
class _Question:
    job_id: str
    port: int
    wants_socket: bool
    rest: bytes
    """The bytes for the port that came along."""


class Channels:
    """The channels of one agent."""

    def __init__(self, home: Home, open_inside: Callable[[JobFolder], Inside | None]) -> None:
        """Args: `open_inside`: returns the inside of a job that runs, or None; may raise an `OSError`."""
        self._home = home
        self._open_inside = open_inside
        self._open = Counter[str]()
        """By job."""
        self._opening: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Serve until cancelled."""
        with listener:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            try:
                await self._accept(listener)
            finally:
                for task in self._opening:
                    task.cancel()
                await asyncio.gather(*self._opening, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("A channel was not accepted: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if len(self._opening) + self._open.total() >= CHANNELS_MAX:
                _refuse(client, f"{CHANNELS_MAX} channels are open on the machine")
                continue
            task = asyncio.create_task(self._serve_client(client), name="opens a channel")
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _serve_client(self, client: socket.socket) -> None:
        try:
            async with asyncio.timeout(QUESTION_TIMEOUT_S):
                question = await _question_of(client)
            await self._open_channel(client, question)
        except _Refused as refusal:
            _refuse(client, str(refusal))
        except OSError as error:  # the caller has left, or was silent for too long
            log.info("A channel was not opened: %s", error or type(error).__name__)
            client.close()
        except BaseException:
            client.close()
            raise

    async def _open_channel(self, client: socket.socket, question: _Question) -> None:
        if self._open[question.job_id] >= CHANNELS_PER_JOB_MAX:
            raise _Refused(f"{CHANNELS_PER_JOB_MAX} channels to the job are open")
        self._open[question.job_id] += 1
        try:
            connected = await self._connected(question)
        except BaseException:
            self._closed(question.job_id)
            raise
        if question.wants_socket:
            self._closed(question.job_id)
            with client, connected:
                socket.send_fds(client, [OPEN], [connected.fileno()])
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(client, OPEN)
            await loop.sock_sendall(connected, question.rest)
        except BaseException:
            self._closed(question.job_id)
            connected.close()
            raise
        await relay(client, connected, lambda: self._closed(question.job_id))

    async def _connected(self, question: _Question) -> socket.socket:
        try:
            folder = self._home.job(question.job_id)
            has_begun = folder.pid.exists() or folder.container.exists()
            inside = self._open_inside(folder) if has_begun else None
            if inside is None:
                raise _Refused("the job does not run on the machine")
            connected = await inside.connect("localhost", question.port)
        except AgentRefused as error:
            raise _Refused(error.message) from None
        except (EngineAway, EngineRefused) as error:
            raise _Refused(f"the container engine does not report the job: {error}") from None
        except OSError as error:
            raise _Refused(refusal_text(error, question.port)) from None
        connected.setblocking(False)
        return connected

    def _closed(self, job_id: str) -> None:
        self._open[job_id] -= 1
        if not self._open[job_id]:
            del self._open[job_id]


async def _question_of(client: socket.socket) -> _Question:
    """Read a question.

    Raises:
        _Refused: it is not understood.
        ConnectionError: the caller has left.
    """
    loop = asyncio.get_running_loop()
    received = b""
    while b"\n" not in received:
        data = await loop.sock_recv(client, LINE_BYTES_MAX)
        if not data:
            raise ConnectionResetError("the caller has left")
        received += data
        if len(received) > 2 * LINE_BYTES_MAX:
            raise _Refused("the question is too long")
    line, _, rest = received.partition(b"\n")
    try:
        body: Any = json.loads(line)
        job_id, port, wants_socket = body["job_id"], body["port"], body.get("fd", False)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _Refused("the question is not understood") from None
    if not isinstance(job_id, str) or type(port) is not int or not 0 < port < 1 << 16:
        raise _Refused("a channel needs the id of a job, and a port from 1 to 65535")
    return _Question(job_id, port, wants_socket is True, rest)


def _refuse(client: socket.socket, reason: str) -> None:
    with client, suppress(OSError):
        client.setblocking(False)
        client.send(json.dumps({"error": reason[: LINE_BYTES_MAX // 2]}).encode() + b"\n")
