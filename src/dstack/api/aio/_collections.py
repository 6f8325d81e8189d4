"""What a client holds, for asyncio."""

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
    """Operations with backends, as `dstack.api.BackendCollection`."""

    def __init__(self, backends: "api.BackendCollection", threads: Threads) -> None:
        self._backends = backends
        self._threads = threads

    async def list(self) -> "list[api.Backend]":
        """All backends of the project."""
        return await self._threads.call(self._backends.list)


class SecretCollection:
    """Operations with secrets, as `dstack.api.SecretCollection`."""

    def __init__(self, secrets: "api.SecretCollection", threads: Threads) -> None:
        self._secrets = secrets
        self._threads = threads

    async def set(self, name: str, value: str) -> None:
        """Keep a secret, in place of an earlier one of that name."""
        await self._threads.call(self._secrets.set, name, value)

    async def get(self, name: str) -> str:
        """The value of a secret. For admins and managers of the project."""
        return await self._threads.call(self._secrets.get, name)

    async def list(self) -> "list[SecretView]":
        """The names of all secrets, and when each was last set."""
        return await self._threads.call(self._secrets.list)

    async def delete(self, name: str) -> None:
        """Forget a secret."""
        await self._threads.call(self._secrets.delete, name)


class EventCollection:
    """The events of one project, as `dstack.api.EventCollection`."""

    def __init__(self, events: "api.EventCollection", threads: Threads) -> None:
        self._events = events
        self._threads = threads

    def list(self, run: str | None = None, after: int = 0) -> "AsyncIterator[EventView]":
        """What has happened so far."""
        return self._threads.stream(self._events.list(run, after))

    def follow(self, run: str | None = None, after: int = 0) -> "AsyncIterator[EventView]":
        """What happens after event `after`, as it happens, without end."""
        return self._threads.stream(self._events.follow(run, after))


class RepoCollection:
    """Operations with repos, as `dstack.api.RepoCollection`."""

    def __init__(self, repos: "api.RepoCollection", threads: Threads) -> None:
        self._repos = repos
        self._threads = threads

    async def init(
        self,
        repo: "Repo",
        git_identity_file: str | os.PathLike[str] | None = None,
        oauth_token: str | None = None,
    ) -> None:
        """Prepare a repo for runs."""
        await self._threads.call(self._repos.init, repo, git_identity_file, oauth_token)

    async def is_initialized(self, repo: "Repo") -> bool:
        """Whether the caller has initialized the repo in the project."""
        return await self._threads.call(self._repos.is_initialized, repo)

    async def list(self) -> "list[RepoView]":
        """All repos that the caller has initialized in the project."""
        return await self._threads.call(self._repos.list)

    async def load(
        self,
        repo_dir: str | os.PathLike[str],
        local: bool = False,
        init: bool = False,
        git_identity_file: str | os.PathLike[str] | None = None,
        oauth_token: str | None = None,
    ) -> "api.LocalRepo | api.RemoteRepo":
        """The repo that a folder was initialized as."""
        return await self._threads.call(self._repos.load, repo_dir, local, init, git_identity_file, oauth_token)

    async def find(
        self, repo_dirs: "Iterable[str | os.PathLike[str]]", local: bool = False
    ) -> "api.LocalRepo | api.RemoteRepo | None":
        """Return what the first of some folders that is initialized was initialized as."""
        return await self._threads.call(self._repos.find, repo_dirs, local)

    async def check(self, repo: "Repo | None") -> None:
        """Refuse a branch or tag that the remote lacks."""
        await self._threads.call(self._repos.check, repo)

    async def upload(
        self,
        repo: "Repo | None",
        files: "Iterable[FileMapping]" = (),
        folder: Path | None = None,
        progress: "Progress | None" = None,
    ) -> "RepoRef | None":
        """Send what a run needs of this machine."""
        return await self._threads.call(self._repos.upload, repo, files, folder, progress)

    async def planned(self, repo: "Repo | None", files: "Iterable[FileMapping]", folder: Path) -> "RepoRef | None":
        """What `upload` with the same arguments would return; nothing is sent."""
        return await self._threads.call(self._repos.planned, repo, files, folder)
