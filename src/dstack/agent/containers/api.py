"""Speaks with a container engine over its unix socket: Docker, or Podman with Docker's API.

Paths carry no version: an engine then answers as its newest one does.
"""

import asyncio
import json
import os
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlencode

import h11

from dstack.agent.containers.sockets import PODMAN, engine_of, unix_paths

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
RETRY_S = 0.5
READ_BYTES = 64 << 10
BODY_BYTES_MAX = 16 << 20
"""Of an answer that is read as a whole."""
LINE_BYTES_MAX = 1 << 20

PART_AWAY = ": unavailable"
"""How Docker's errors end while its containerd does not answer."""

T = TypeVar("T")
Query: TypeAlias = Mapping[str, str | int]


class EngineRefused(Exception):
    """The engine answered, and said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class EngineAway(Exception):
    """The engine does not answer."""


class EngineStalls(Exception):
    """The engine has begun something, and nothing comes of it any more."""


class ContainerEngine:
    """A client of one engine. Every call has a connection of its own, so that none waits for another."""

    def __init__(self, paths: tuple[str, ...] | None = None) -> None:
        """Args: `paths`: where its socket may be; the usual places where unset. The first that answers is taken."""
        self._paths = paths

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Query | None = None,
        timeout_s: float | None = CALL_TIMEOUT_S,
    ) -> Any:  # JSON, of whatever shape
        """What the engine answers; None where that is nothing.

        Args:
            timeout_s: for the whole call; None to wait for ever.

        Raises:
            EngineRefused: it says no.
            EngineAway: it does not answer.
        """
        content = b"" if body is None else json.dumps(body).encode()
        async with self._time(timeout_s), self.exchange(method, path, content, query=query) as answer:
            return await _json(answer)

    async def is_podman(self, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        """Whether it is Podman that answers.

        Raises:
            EngineRefused, EngineAway
        """
        return engine_of(await self.call("GET", "/version", timeout_s=timeout_s)).name == PODMAN

    async def shares_kernel(self) -> bool:
        """Return whether containers run on this machine's kernel, and not in a virtual machine of the engine's.

        Raises:
            EngineRefused, EngineAway
        """
        known = (await self.call("GET", "/version")).get("KernelVersion")
        return known is None or known == os.uname().release

    async def is_back(self, within_s: float) -> bool:
        """Wait until the engine answers, for `within_s` seconds at most. Whether it does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    with suppress(EngineAway):
                        async with self.exchange("GET", "/_ping") as answer:
                            if answer.status < 400:
                                return True
                    await asyncio.sleep(RETRY_S)
        return False

    async def lines(
        self, method: str, path: str, *, stall_s: float | None, query: Query, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """An answer of JSON lines, as they come.

        Args:
            stall_s: how long the first or the next one may take to come; None for ever.

        Raises:
            EngineRefused, EngineStalls
            EngineAway: it does not answer, or breaks off.
        """
        async with AsyncExitStack() as stack:
            exchange = self.exchange(method, path, headers=headers, query=query)
            answer = await _within(stall_s, stack.enter_async_context(exchange))
            if answer.status >= 400:
                raise await _refusal(answer)
            waiting = b""
            chunks = answer.chunks()
            while True:
                chunk = await _within(stall_s, anext(chunks, None))
                if chunk is None:
                    return
                *whole, waiting = (waiting + chunk).split(b"\n")
                if len(waiting) > LINE_BYTES_MAX:
                    raise EngineAway("it sent a line without an end")
                for line in whole:
                    if line.strip():
                        yield _parsed(line)

    async def upgrade(self, path: str, body: Mapping[str, object]) -> tuple[StreamReader, StreamWriter, bytes]:
        """Turn a call into a stream of bytes both ways. Also returns the bytes that have come already.

        Raises:
            EngineRefused, EngineAway
        """
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        async with asyncio.timeout(CALL_TIMEOUT_S):
            answer = await self._open("POST", path, json.dumps(body).encode(), headers, {})
            try:
                if answer.status not in (101, 200):
                    raise await _refusal(answer)
            except BaseException:
                answer.close()
                raise
        return answer.reader, answer.writer, answer.trailing()

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
    ) -> AsyncIterator["Answer"]:
        """One call, and the answer to be read meanwhile."""
        answer = await self._open(method, path, content, headers or {}, query or {})
        try:
            yield answer
        except (OSError, h11.ProtocolError) as error:
            raise EngineAway(str(error) or type(error).__name__) from error
        finally:
            answer.close()

    async def _open(self, method: str, path: str, content: bytes, headers: Mapping[str, str], query: Query) -> "Answer":
        reader, writer = await self._connect()
        target = f"{path}?{urlencode(query)}" if query else path
        all_headers = {
            "Host": "engine",
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **headers,
        }
        answer = Answer(reader, writer)
        try:
            await answer.begin(h11.Request(method=method, target=target, headers=list(all_headers.items())), content)
        except (OSError, h11.ProtocolError) as error:
            answer.close()
            raise EngineAway(str(error) or type(error).__name__) from error
        except BaseException:
            answer.close()
            raise
        return answer

    async def _connect(self) -> tuple[StreamReader, StreamWriter]:
        said = ["no socket of an engine was found"]
        for path in self._paths or unix_paths():
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    return await asyncio.open_unix_connection(path)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    said.append(f"`{path}`: {error.strerror or type(error).__name__}")
        raise EngineAway(said[-1])

    @asynccontextmanager
    async def _time(self, timeout_s: float | None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise EngineAway(f"it did not answer within {timeout_s:g} s") from None


class Answer:
    """The engine's answer to one call."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._http = h11.Connection(h11.CLIENT)

    async def begin(self, request: h11.Request, content: bytes) -> None:
        """Ask, and read on until the answer's headers have come."""
        for event in (request, h11.Data(data=content), h11.EndOfMessage()):
            self.writer.write(self._http.send(event) or b"")
        await self.writer.drain()
        while True:
            event = await self._next()
            if isinstance(event, h11.Response | h11.InformationalResponse) and event.status_code != 100:
                self.status = event.status_code
                self.headers = {name.decode(): value.decode(errors="replace") for name, value in event.headers}
                return
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("the connection was closed")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return

    async def read(self, bytes_max: int = BODY_BYTES_MAX) -> bytes:
        """The whole body.

        Raises:
            EngineAway: it is too long.
        """
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > bytes_max:
                raise EngineAway(f"its answer is longer than {bytes_max >> 20} MB")
        return bytes(body)

    def trailing(self) -> bytes:
        """What came behind the headers of an upgraded connection."""
        return bytes(self._http.trailing_data[0])

    def close(self) -> None:
        """Close the connection; the engine gives up what it still does for this call."""
        with suppress(OSError):
            self.writer.close()

    async def _next(self) -> Any:  # an event of h11, which has no common type for them
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.reader.read(READ_BYTES))
        return event


async def _within(stall_s: float | None, coming: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(stall_s):
            return await coming
    except TimeoutError:
        raise EngineStalls(f"nothing came for {stall_s:g} s") from None


async def _json(answer: Answer) -> Any:
    if answer.status >= 400:
        raise await _refusal(answer)
    body = await answer.read()
    return _parsed(body) if body.strip() else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise EngineAway(f"its answer cannot be understood: {text[:100].decode(errors='replace')}") from None


async def _refusal(answer: Answer) -> EngineRefused | EngineAway:
    """What the engine says. Where a part of it is away that it starts again, the engine is away for us."""
    body = await answer.read()
    try:
        said = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace")
    said = " ".join(str(said).split())[:1000]
    is_away = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR and said.endswith(PART_AWAY)
    return EngineAway(said) if is_away else EngineRefused(answer.status, said)
