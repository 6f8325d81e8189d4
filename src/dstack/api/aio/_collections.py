"""The collections of a client, for asyncio."""

import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dstack import api
from dstack.api.aio._threads import Threads

if TYPE_CHECKING:
    from dstack.api._files import Progress
    from dstack.api._repos import Repo
    from dstack.protocol.requests import RepoRef
    from dstack.protocol.views import EventView, RepoView, SecretView
    from dstack.spec.mounts import FileMapping


class BackendCollection:
    """The backends of one project, as `dstack.api.BackendCollection`."""

    def __init__(self, backends: "api.BackendCollection", threads: Threads) -> None:
        self._backends = backends
        self._threads = threads

    async def list(self) -> "list[api.Backend]":
        """Return all backends of the project."""
        return await self._threads.call(self._backends.list)


class SecretCollection:
    """The secrets of one project, as `dstack.api.SecretCollection`."""

    def __init__(self, secrets: "api.SecretCollection", threads: Threads) -> None:
        self._secrets = secrets
        self._threads = threads

    async def set(self, name: str, value: str) -> None:
        """Store a secret. Replaces the secret of that name, if there is one."""
        await self._threads.call(self._secrets.set, name, value)

    async def get(self, name: str) -> str:
        """Return the value of a secret. Only admins and managers of the project may read it."""
        return await self._threads.call(self._secrets.get, name)

    async def list(self) -> "list[SecretView]":
        """Return all secrets of the project, without values."""
        return await self._threads.call(self._secrets.list)

    async def delete(self, name: str) -> None:
        """Delete a secret."""
        await self._threads.call(self._secrets.delete, name)


class EventCollection:
    """The events of one project, as `dstack.api.EventCollection`."""

    def __init__(self, events: "api.EventCollection", threads: Threads) -> None:
        self._events = events
        self._threads = threads

    def list(self, run: str | None = None, after: int = 0) -> "AsyncIterator[EventView]":
        """Yield the events so far, oldest first."""
        return self._threads.stream(self._events.list(run, after))

    def follow(self, run: str | None = None, after: int = 0) -> "AsyncIterator[EventView]":
        """Yield events after number `after` as they happen, without end."""
        return self._threads.stream(self._events.follow(run, after))


class RepoCollection:
    """The repos of one project, as `dstack.api.RepoCollection`."""

    def __init__(self, repos: "api.RepoCollection", threads: Threads) -> None:
        self._repos = repos
        self._threads = threads

    async def init(
        self,
        repo: "Repo",
        git_identity_file: str | os.PathLike[str] | None = None,
        oauth_token: str | None = None,
    ) -> None:
        """Initialize a repo in the project, so that runs can use it."""
        await self._threads.call(self._repos.init, repo, git_identity_file, oauth_token)

    async def is_initialized(self, repo: "Repo") -> bool:
        """Return whether the user has initialized the repo in the project."""
        return await self._threads.call(self._repos.is_initialized, repo)

    async def list(self) -> "list[RepoView]":
        """Return all repos that the user has initialized in the project."""
        return await self._threads.call(self._repos.list)

    async def load(
        self,
        repo_dir: str | os.PathLike[str],
        local: bool = False,
        init: bool = False,
        git_identity_file: str | os.PathLike[str] | None = None,
        oauth_token: str | None = None,
    ) -> "api.LocalRepo | api.RemoteRepo":
        """Return the repo as which a folder was initialized."""
        return await self._threads.call(self._repos.load, repo_dir, local, init, git_identity_file, oauth_token)

    async def find(
        self, repo_dirs: "Iterable[str | os.PathLike[str]]", local: bool = False
    ) -> "api.LocalRepo | api.RemoteRepo | None":
        """Return the repo of the first of some folders that is initialized; None without one."""
        return await self._threads.call(self._repos.find, repo_dirs, local)

    async def check(self, repo: "Repo | None") -> None:
        """Check that the remote has the repo's branch or tag."""
        await self._threads.call(self._repos.check, repo)

    async def upload(
        self,
        repo: "Repo | None",
        files: "Iterable[FileMapping]" = (),
        folder: Path | None = None,
        progress: "Progress | None" = None,
        path: str = ".",
    ) -> "RepoRef | None":
        """Send a run's files to the server, and return the run's reference to them; None for no files."""
        return await self._threads.call(self._repos.upload, repo, files, folder, progress, path)

    async def planned(
        self, repo: "Repo | None", files: "Iterable[FileMapping]", folder: Path, path: str = "."
    ) -> "RepoRef | None":
        """Return the result of `upload` with the same arguments, without sending anything."""
        return await self._threads.call(self._repos.planned, repo, files, folder, path)
