"""The Python API for asyncio: the names of `dstack.api`, with `await` for each call that may take time.

Example:
    >>> import asyncio
    >>> from dstack.api.aio import Client, Task
    >>> async def main():
    ...     async with Client.from_config() as client:
    ...         run = await client.runs.submit(Task(commands=["echo hello"]))
    ...         return [chunk async for chunk in run.logs()]
    >>> b"".join(asyncio.run(main()))
    b'hello\\n'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dstack import api

if TYPE_CHECKING:  # for type checkers and editors; the real imports happen on first use
    from dstack.api import *  # noqa: F403
    from dstack.api.aio._accounts import MemberCollection as MemberCollection
    from dstack.api.aio._accounts import TokenCollection as TokenCollection
    from dstack.api.aio._accounts import UserCollection as UserCollection
    from dstack.api.aio._backends import BackendCollection as BackendCollection
    from dstack.api.aio._client import Client as Client
    from dstack.api.aio._events import EventCollection as EventCollection
    from dstack.api.aio._repo_collection import RepoCollection as RepoCollection
    from dstack.api.aio._run import Run as Run
    from dstack.api.aio._runs import RunCollection as RunCollection
    from dstack.api.aio._secrets import SecretCollection as SecretCollection

# `make docs` writes these places, and the imports above from this package.
_OWN = {
    "BackendCollection": "dstack.api.aio._backends",
    "Client": "dstack.api.aio._client",
    "EventCollection": "dstack.api.aio._events",
    "MemberCollection": "dstack.api.aio._accounts",
    "RepoCollection": "dstack.api.aio._repo_collection",
    "Run": "dstack.api.aio._run",
    "RunCollection": "dstack.api.aio._runs",
    "SecretCollection": "dstack.api.aio._secrets",
    "TokenCollection": "dstack.api.aio._accounts",
    "UserCollection": "dstack.api.aio._accounts",
}
__all__ = sorted(api.__all__)


def __getattr__(name: str) -> Any:  # the type depends on the name
    if name in _OWN:
        return getattr(import_module(_OWN[name]), name)
    if name in api.__all__:
        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
