"""The asyncio form of `dstack.api._repo_collection`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from pathlib import Path

    from dstack import api
    from dstack.api._files import Progress
    from dstack.api._repos import LocalRepo, RemoteRepo, Repo
    from dstack.api.aio._threads import Threads
    from dstack.protocol.requests import RepoRef
    from dstack.protocol.views import RepoView
    from dstack.spec.mounts import FileMapping


class RepoCollection:
    """The repos of one project.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client, LocalRepo
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         print(await client.repos.is_initialized(LocalRepo.from_dir(".")))
        >>> asyncio.run(main())
        False
    """

    def __init__(self, repos: api.RepoCollection, threads: Threads) -> None:
        self._repos = repos
        self._threads = threads

    async def init(
        self, repo: Repo, git_identity_file: str | os.PathLike[str] | None = None, oauth_token: str | None = None
    ) -> None:
        """Initialize a repo in the project, so that runs can use it.

        For a remote repo, credentials are found, tested and stored encrypted on the server. In this order: no
        credentials; the given key; the given token; the keys that SSH has for the host; the token of `gh`.

        Args:
            repo: the repo.
            git_identity_file: a private key without a passphrase, for a remote repo.
            oauth_token: a token, for a remote repo.

        Raises:
            ConfigurationError: no credentials open the remote, the remote lacks the branch, or credentials are given
                for a repo that is not remote.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, VirtualRepo
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         repo = VirtualRepo("my-files")
            ...         repos = client.repos
            ...         await repos.init(repo)
            ...         print(await repos.is_initialized(repo))
            >>> asyncio.run(main())
            True
        """
        await self._threads.call(self._repos.init, repo, git_identity_file, oauth_token)

    async def is_initialized(self, repo: Repo) -> bool:
        """Return whether the user has initialized the repo in the project.

        Args:
            repo: the repo.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, VirtualRepo
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print(await client.repos.is_initialized(VirtualRepo("never-seen")))
            >>> asyncio.run(main())
            False
        """
        return await self._threads.call(self._repos.is_initialized, repo)

    async def list(self) -> list[RepoView]:
        """Return all repos that the user has initialized in the project, without credentials.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print([repo.id for repo in await client.repos.list() if repo.id == "no-such-repo"])
            >>> asyncio.run(main())
            []
        """
        return await self._threads.call(self._repos.list)

    async def load(
        self,
        repo_dir: str | os.PathLike[str],
        local: bool = False,
        init: bool = False,
        git_identity_file: str | os.PathLike[str] | None = None,
        oauth_token: str | None = None,
    ) -> LocalRepo | RemoteRepo:
        """Return the repo as which a folder was initialized.

        Args:
            repo_dir: the folder.
            local: whether to use the folder itself even if it has a remote.
            init: whether to initialize a folder that is not initialized.
            git_identity_file: a private key without a passphrase, as for `init`.
            oauth_token: a token, as for `init`.

        Raises:
            RepoDoesNotExistError: the folder is not initialized.
            ConfigurationError: the folder is missing, or as for `init`.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print(type(await client.repos.load(".", local=True, init=True)).__name__)
            >>> asyncio.run(main())
            LocalRepo
        """
        return await self._threads.call(self._repos.load, repo_dir, local, init, git_identity_file, oauth_token)

    async def find(
        self, repo_dirs: Iterable[str | os.PathLike[str]], local: bool = False
    ) -> LocalRepo | RemoteRepo | None:
        """Return the repo of the first of some folders that is initialized; None without one.

        In a checkout, this is its remote, or the nearest initialized folder up to the checkout's root.

        Args:
            repo_dirs: the folders.
            local: whether to use the folder itself even if it was initialized as its remote.

        Raises:
            ConfigurationError: a folder is missing, Git cannot read it, or its remote lacks all of its commits.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print(await client.repos.find(["/"]) is None)
            >>> asyncio.run(main())
            True
        """
        return await self._threads.call(self._repos.find, repo_dirs, local)

    async def check(self, repo: Repo | None) -> None:
        """Check that the remote has the repo's branch or tag. Passes if this machine cannot read the remote.

        Args:
            repo: the repo; None passes.

        Raises:
            ConfigurationError: the remote has no such branch or tag.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         await client.repos.check(None)
            >>> asyncio.run(main())
        """
        await self._threads.call(self._repos.check, repo)

    async def upload(
        self,
        repo: Repo | None,
        files: Iterable[FileMapping] = (),
        folder: Path | None = None,
        progress: Progress | None = None,
        path: str = ".",
    ) -> RepoRef | None:
        """Send a run's files to the server. Files that the server has already are not sent again.

        Args:
            repo: the repo; None for none.
            files: files and folders to send with the repo.
            folder: the folder to which their paths are relative; by default the current folder.
            progress: called with the number of bytes on the server so far and the number of all bytes.
            path: the repo's path in the job.

        Returns:
            The run's reference to the files; None without files.

        Raises:
            ConfigurationError: a file cannot be sent, with the file and the reason.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print(await client.repos.upload(None) is None)
            >>> asyncio.run(main())
            True
        """
        return await self._threads.call(self._repos.upload, repo, files, folder, progress, path)

    async def planned(
        self, repo: Repo | None, files: Iterable[FileMapping], folder: Path, path: str = "."
    ) -> RepoRef | None:
        """Return the result of `upload` with the same arguments, without sending anything.

        Args:
            repo: the repo; None for none.
            files: files and folders to send with the repo.
            folder: the folder to which their paths are relative.
            path: the repo's path in the job.

        Raises:
            ConfigurationError: a file cannot be read.

        Examples:
            >>> import asyncio
            >>> from pathlib import Path
            >>> from dstack.api.aio import Client
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         print(await client.repos.planned(None, [], Path()) is None)
            >>> asyncio.run(main())
            True
        """
        return await self._threads.call(self._repos.planned, repo, files, folder, path)
