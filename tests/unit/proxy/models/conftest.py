"""A data plane with model servers behind it, in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from dstack.kit.clock import SystemClock
from dstack.protocol.proxy import Model, Replica, Service, Snapshot, Tcp
from dstack.proxy.clients import ClientConnection
from dstack.proxy.models.choosing import Models
from dstack.proxy.plane import DataPlane
from tests.model_server import ModelServer
from tests.patience import PATIENCE_S

TOKEN, FOREIGN = "token-of-ada", "token-of-bob"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"


class Plane:
    """A data plane that serves, and the servers behind it."""

    def __init__(self, data_plane: DataPlane, models: Models, port: int) -> None:
        self.data_plane = data_plane
        self.models = models
        self.url = f"http://127.0.0.1:{port}/proxy/models"
        self.port = port
        self._version = 0
        self._servers: list[ModelServer] = []
        self._clients: list[AsyncOpenAI] = []

    async def server(self, name: str = "replica", pause_s: float = 0.0) -> ModelServer:
        """Start a replica."""
        server = ModelServer(name, pause_s=pause_s)
        await server.start()
        self._servers.append(server)
        return server

    def follow(self, *services: Service) -> None:
        """Replace all routes."""
        self._version += 1
        tokens = {
            sha256(token.encode()).hexdigest(): (project,) for token, project in ((TOKEN, "main"), (FOREIGN, "other"))
        }
        self.data_plane.routes.replace(Snapshot(self._version, services, tokens))

    def client(self, token: str = TOKEN, project: str = "main") -> AsyncOpenAI:
        """The official client, with the base URL that users are shown."""
        client = AsyncOpenAI(
            base_url=f"{self.url}/{project}",
            api_key=token,
            max_retries=0,
            timeout=PATIENCE_S,
            http_client=DefaultAsyncHttpxClient(trust_env=False),
        )
        self._clients.append(client)
        return client

    async def send(
        self,
        path: str,
        body: Any = b"",
        token: str | None = TOKEN,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send one request of any form."""
        sent = {**(headers or {}), **({} if token is None else {"authorization": f"Bearer {token}"})}
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
            if isinstance(body, bytes):
                return await client.request(method, f"{self.url}/{path}", content=body, headers=sent)
            return await client.request(method, f"{self.url}/{path}", json=body, headers=sent)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.data_plane.end(0)
        await self.data_plane.tasks.close()
        await self.models.close()
        await asyncio.sleep(0)  # until connections that were aborted are closed
        for server in self._servers:
            await server.close()


def service(name: str, *servers: ModelServer, model: str = "tiny", **fields: Any) -> Service:
    """A service with these replicas."""
    of_model = {
        key: fields.pop(key)
        for key in ("format", "prefix", "chat_template", "eos_token", "created_at")
        if key in fields
    }
    return Service(
        id=f"id-of-{name}",
        project=fields.pop("project", "main"),
        name=name,
        model=Model(model, **{"format": "openai", **of_model}),
        replicas=tuple(
            Replica(f"{name}-{number}", number, Tcp("127.0.0.1", server.port)) for number, server in enumerate(servers)
        ),
        **fields,
    )


@asynccontextmanager
async def serving() -> AsyncIterator[Plane]:
    loop = asyncio.get_running_loop()
    data_plane = DataPlane()
    models = Models(data_plane, SystemClock())
    data_plane.choose_model = models.choose
    server = await loop.create_server(lambda: ClientConnection(data_plane), "127.0.0.1", 0)
    plane = Plane(data_plane, models, server.sockets[0].getsockname()[1])
    try:
        yield plane
    finally:
        server.close()
        await plane.close()


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with serving() as plane:
        yield plane
