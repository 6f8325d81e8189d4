"""Repos: the sources of a run's files. A repo is a folder, a Git remote, or files made by a program."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from dstack.api import _places
from dstack.errors import ConfigurationError

if TYPE_CHECKING:
    from dstack.api._files import Item
    from dstack.protocol.requests import RepoRef


LONGEST_REPO_ID = 200


@dataclass(frozen=True, slots=True, init=False)
class LocalRepo:
    """A folder of this machine, sent with a run.

    Args:
        repo_dir: the folder.

    Raises:
        ConfigurationError: the folder is missing.

    Examples:
        >>> LocalRepo(repo_dir=".") == LocalRepo.from_dir(".")
        True
    """

    folder: Path
    """The absolute path of the folder."""

    def __init__(self, repo_dir: str | os.PathLike[str]) -> None:
        folder = _places.expanded(repo_dir).resolve()
        if not folder.is_dir():
            raise ConfigurationError(f"There is no folder `{repo_dir}`", hint="Name a folder that exists")
        object.__setattr__(self, "folder", folder)

    @property
    def repo_id(self) -> str:
        """The repo's id: a hash of the folder's path, the same for each run."""
        return f"local-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}"

    @staticmethod
    def from_dir(repo_dir: str | os.PathLike[str]) -> "LocalRepo":
        """Return the repo of a folder.

        A job finds the folder's files in its working folder, without `.git` and the files that `.gitignore` or
        `.dstackignore` name.

        Args:
            repo_dir: the folder.

        Raises:
            ConfigurationError: the folder is missing.

        Examples:
            >>> LocalRepo.from_dir(".").folder.is_absolute()
            True
        """
        return LocalRepo(repo_dir)

    def items(self) -> "Iterable[Item]":
        """Return the files to send.

        Raises:
            ConfigurationError: Git cannot read the folder, or a submodule is not checked out.

        Examples:
            >>> LocalRepo("/nowhere")
            Traceback (most recent call last):
            dstack.errors.ConfigurationError: There is no folder `/nowhere`
            hint: Name a folder that exists
        """
        from dstack.api._folders import items_in

        return items_in(self.folder)

    def ref(self, root: str | None) -> "RepoRef":
        """Return a run's reference to the repo.

        Args:
            root: the hash of the sent files; None if no files were sent.

        Examples:
            >>> LocalRepo.from_dir(".").ref(None).kind
            'local'
        """
        from dstack.protocol.requests import RepoRef

        return RepoRef(id=self.repo_id, kind="local", root=root)


@dataclass(frozen=True, slots=True)
class RemoteRepo:
    """A Git remote, cloned by the job's machine. With `from_dir`, changes that are not pushed are sent too.

    Initialize the repo once in a project before runs use it: `client.repos.init(repo)`.

    Examples:
        >>> repo = RemoteRepo.from_url("https://example.com/team/project.git", repo_branch="main")
        >>> repo.repo_url, repo.repo_branch
        ('https://example.com/team/project.git', 'main')
    """

    repo_url: str
    """The remote's URL, without credentials."""
    repo_branch: str | None = None
    """The branch or tag; by default the remote's default branch."""
    repo_hash: str | None = None
    """The commit; by default the newest commit of the branch."""
    folder: Path | None = None
    """The local checkout whose differences are sent with the run; None without one."""
    token: str | None = field(default=None, repr=False)
    """The password that the URL contained; None without one."""

    @staticmethod
    def from_dir(repo_dir: str | os.PathLike[str]) -> "RemoteRepo":
        """Return the remote of a local checkout, at the newest commit that the remote has too.

        Differences from that commit are sent with the run: unpushed commits, changed and untracked files.

        Args:
            repo_dir: a folder in the checkout.

        Raises:
            ConfigurationError: the folder is missing or not in a checkout, or no commit is known to be on the remote.

        Examples:
            >>> RemoteRepo.from_dir("/")
            Traceback (most recent call last):
            dstack.errors.ConfigurationError: `/` is not under Git
            hint: Send it as it is with `LocalRepo.from_dir`
        """
        from dstack.api import _git

        folder = _places.expanded(repo_dir).resolve()
        if not folder.is_dir():
            raise ConfigurationError(f"There is no folder `{repo_dir}`", hint="Name a folder that exists")
        checkout = _git.checkout_of(folder)
        url, token = _git.normal_url(checkout.url)
        return RemoteRepo(url, checkout.branch, checkout.commit, checkout.root, token)

    @staticmethod
    def from_url(repo_url: str, repo_branch: str | None = None, repo_hash: str | None = None) -> "RemoteRepo":
        """Return a remote by its URL.

        Args:
            repo_url: such as `https://example.com/team/project` or `git@example.com:team/project.git`.
            repo_branch: the branch or tag; without `repo_hash`, its newest commit is used.
            repo_hash: the commit: 7 to 64 hexadecimal digits.

        Raises:
            ValueError: neither branch nor hash is given.
            ConfigurationError: the URL is not the URL of a remote, or the branch or hash is malformed.

        Examples:
            >>> RemoteRepo.from_url("git@example.com:team/project.git", repo_hash="0a1b2c3").repo_hash
            '0a1b2c3'
        """
        from dstack.api import _git

        if not repo_branch and not repo_hash:
            raise ValueError("expected `repo_branch` or `repo_hash`, found neither")
        _git.check_revision(repo_branch, repo_hash)
        url, token = _git.normal_url(repo_url)
        return RemoteRepo(url, repo_branch, repo_hash, None, token)

    @property
    def repo_id(self) -> str:
        """The repo's id: a hash of the remote's URL, the same for every spelling of it."""
        from dstack.api._git import identity_of

        return f"remote-{hashlib.sha256(identity_of(self.repo_url).encode()).hexdigest()[:16]}"

    def items(self) -> "Iterable[Item]":
        """Return the differences of the local checkout from the commit; none without a checkout.

        Raises:
            ConfigurationError: Git cannot compare them, or a submodule is not checked out.

        Examples:
            >>> list(RemoteRepo.from_url("https://example.com/team/project", "main").items())
            []
        """
        from dstack.api import _git

        if self.folder is None or self.repo_hash is None:
            return []
        return _git.changes_since(_git.Checkout(self.folder, self.repo_url, self.repo_branch, self.repo_hash))

    def ref(self, root: str | None) -> "RepoRef":
        """Return a run's reference to the repo.

        Args:
            root: the hash of the sent files; None if no files were sent.

        Examples:
            >>> RemoteRepo.from_url("https://example.com/team/project", "main").ref(None).branch
            'main'
        """
        from dstack.protocol.requests import RepoRef

        return RepoRef(
            id=self.repo_id,
            kind="remote",
            root=root,
            url=self.repo_url,
            branch=self.repo_branch,
            hash=self.repo_hash,
            parts_sent=self.folder is not None,
        )


class VirtualRepo:
    """Files made by a program and sent with a run.

    Args:
        repo_id: a name for the repo, such as `my-files`. An id of more than 200 characters, or with characters such
            as `/`, is sent to the server as a hash.

    Examples:
        >>> repo = VirtualRepo(repo_id="my-files")
        >>> repo.add_file("settings.json", b"{}")
        >>> [item.path for item in repo.items()]
        ['settings.json']
    """

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id
        """The repo's id."""
        self._files: dict[str, bytes] = {}
        self._folders: set[str] = set()

    def add_file(self, path: str, content: bytes | bytearray | memoryview) -> None:
        """Add a file, or replace the file of that path.

        Args:
            path: the file's path, relative to the job's working folder and inside it.
            content: the file's bytes.

        Raises:
            ValueError: the path is absolute, leaves the folder, or conflicts with a file added before.
            TypeError: the content is not bytes.

        Examples:
            >>> VirtualRepo("x").add_file("../out", b"")
            Traceback (most recent call last):
            ValueError: expected a path inside the job's folder, found `../out`
        """
        from dstack.protocol.files import is_safe_path

        if not is_safe_path(path):
            raise ValueError(f"expected a path inside the job's folder, found `{path}`")
        try:
            path.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ValueError(f"expected a path that UTF-8 can write, found {path!a}") from error
        folders = {path[:end] for end, letter in enumerate(path) if letter == "/"}
        if path in self._folders or not folders.isdisjoint(self._files):
            other = next(one for one in self._files if one in folders or one.startswith(f"{path}/"))
            raise ValueError(f"`{path}` and `{other}` cannot both be files: one would be a folder of the other")
        self._files[path] = _bytes_of(content, path)
        self._folders |= folders

    def add_file_from_package(self, package: ModuleType | str, path: str) -> None:
        """Add a file of an installed package, under the same path.

        Args:
            package: the package, or its name.
            path: the file's path, relative to the package's folder.

        Raises:
            ValueError: the path leaves the package, or the file is missing.

        Examples:
            >>> repo = VirtualRepo("x")
            >>> repo.add_file_from_package("json", "decoder.py")
            >>> [item.path for item in repo.items()]
            ['decoder.py']
        """
        from importlib.resources import files

        from dstack.protocol.files import is_safe_path

        module = import_module(package) if isinstance(package, str) else package
        if not is_safe_path(path):
            raise ValueError(f"expected a path inside the package, found `{path}`")
        source = files(module).joinpath(*path.split("/"))
        if not source.is_file():
            raise ValueError(f"the package `{module.__name__}` has no file `{path}`")
        self.add_file(path, source.read_bytes())

    def items(self) -> "Iterable[Item]":
        """Return the files to send.

        Examples:
            >>> list(VirtualRepo("x").items())
            []
        """
        from dstack.api._files import Item

        return [Item(path, content) for path, content in self._files.items()]

    def ref(self, root: str | None) -> "RepoRef":
        """Return a run's reference to the repo.

        Args:
            root: the hash of the sent files; None if no files were sent.

        Examples:
            >>> VirtualRepo("x").ref(None).id
            'x'
        """
        from dstack.kit.text import is_segment
        from dstack.protocol.requests import RepoRef

        is_short = len(self.repo_id) <= LONGEST_REPO_ID
        digest = hashlib.sha256(self.repo_id.encode("utf-8", "surrogatepass")).hexdigest()
        fits = is_short and is_segment(self.repo_id)
        return RepoRef(id=self.repo_id if fits else f"virtual-{digest[:16]}", kind="virtual", root=root)


def _bytes_of(content: object, path: str) -> bytes:
    if isinstance(content, str):
        raise TypeError(f"expected the bytes of `{path}`, found a text: pass `content.encode()`")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(f"expected the bytes of `{path}`, found a value of type `{type(content).__name__}`")
    return bytes(content)


Repo: TypeAlias = LocalRepo | RemoteRepo | VirtualRepo
