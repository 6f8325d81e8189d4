"""The repos of a project: initialize them, find them, and send their files."""

import os
import posixpath
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dstack.api import _places
from dstack.errors import ConfigurationError, RepoDoesNotExistError
from dstack.kit.text import listed

if TYPE_CHECKING:
    from dstack.api._files import Item, Progress
    from dstack.api._transport import Transport
    from dstack.protocol.requests import InitRepo, RepoRef
    from dstack.protocol.views import RepoView
    from dstack.spec.mounts import FileMapping


from dstack.api._repos import LocalRepo, RemoteRepo, Repo


class RepoCollection:
    """The repos of one project.

    Examples:
        >>> from dstack.api import Client, LocalRepo
        >>> Client.from_config().repos.is_initialized(LocalRepo.from_dir("."))
        False
    """

    def __init__(self, transport: "Transport", project: str) -> None:
        self._transport = transport
        self._project = project

    def init(
        self,
        repo: Repo,
        git_identity_file: str | os.PathLike[str] | None = None,
        oauth_token: str | None = None,
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
            >>> from dstack.api import Client, VirtualRepo
            >>> repo = VirtualRepo("my-files")
            >>> repos = Client.from_config().repos
            >>> repos.init(repo)
            >>> repos.is_initialized(repo)
            True
        """
        from dstack.protocol import routes
        from dstack.protocol.requests import InitRepo

        if isinstance(repo, RemoteRepo):
            request = _opened(repo, git_identity_file, oauth_token)
        elif git_identity_file is not None or oauth_token is not None:
            raise ConfigurationError(f"A `{type(repo).__name__}` takes no Git credentials", hint="Leave them out")
        else:
            request = InitRepo(kind=repo.ref(None).kind)
        self._transport.call(routes.INIT_REPO, request, project=self._project, repo=repo.ref(None).id)

    def is_initialized(self, repo: Repo) -> bool:
        """Return whether the user has initialized the repo in the project.

        Args:
            repo: the repo.

        Examples:
            >>> from dstack.api import Client, VirtualRepo
            >>> Client.from_config().repos.is_initialized(VirtualRepo("never-seen"))
            False
        """
        return any(one.id == repo.ref(None).id for one in self.list())

    def list(self) -> "list[RepoView]":
        """Return all repos that the user has initialized in the project, without credentials.

        Examples:
            >>> from dstack.api import Client
            >>> [repo.id for repo in Client.from_config().repos.list() if repo.id == "no-such-repo"]
            []
        """
        from dstack.protocol import routes
        from dstack.protocol.views import RepoList

        reply: RepoList = self._transport.call(routes.LIST_REPOS, project=self._project)
        return reply.repos

    def load(
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
            >>> from dstack.api import Client
            >>> type(Client.from_config().repos.load(".", local=True, init=True)).__name__
            'LocalRepo'
        """
        found = self.find([repo_dir], local=local)
        if found is not None:
            return found
        if not init:
            raise self._not_initialized(repo_dir)
        new = LocalRepo.from_dir(repo_dir) if local else new_repo(repo_dir)
        self.init(new, git_identity_file, oauth_token)
        return new

    def find(self, repo_dirs: "Iterable[str | os.PathLike[str]]", local: bool = False) -> LocalRepo | RemoteRepo | None:
        """Return the repo of the first of some folders that is initialized; None without one.

        In a checkout, this is its remote, or the nearest initialized folder up to the checkout's root.

        Args:
            repo_dirs: the folders.
            local: whether to use the folder itself even if it was initialized as its remote.

        Raises:
            ConfigurationError: a folder is missing, Git cannot read it, or its remote lacks all of its commits.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().repos.find(["/"]) is None
            True
        """
        folders = [LocalRepo.from_dir(repo_dir) for repo_dir in repo_dirs]
        known = {one.id for one in self.list()}
        found = (_known_as(here, known, local=local) for here in folders) if known else ()
        return next((repo for repo in found if repo is not None), None)

    def check(self, repo: Repo | None) -> None:
        """Check that the remote has the repo's branch or tag. Passes if this machine cannot read the remote.

        Args:
            repo: the repo; None passes.

        Raises:
            ConfigurationError: the remote has no such branch or tag.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().repos.check(None)
        """
        if not isinstance(repo, RemoteRepo) or repo.folder or repo.repo_hash or not repo.repo_branch:
            return
        from dstack.api import _git

        try:
            *_, refs = _git.find_credentials(repo.repo_url, _git.Credentials(token=repo.token))
        except ConfigurationError:  # the server's credentials may open the remote
            return
        _check_branch(repo, refs)

    def _not_initialized(self, repo_dir: str | os.PathLike[str]) -> RepoDoesNotExistError:
        return RepoDoesNotExistError(
            f"The folder `{repo_dir}` is not initialized in the project `{self._project}`",
            hint="`dstack init` there first",
        )

    def upload(
        self,
        repo: Repo | None,
        files: "Iterable[FileMapping]" = (),
        folder: Path | None = None,
        progress: "Progress | None" = None,
        path: str = ".",
    ) -> "RepoRef | None":
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
            >>> from dstack.api import Client
            >>> Client.from_config().repos.upload(None) is None
            True
        """
        list_items = _items_beside(repo, list(files), folder or Path.cwd(), path)
        if list_items is None:
            return _ref(repo, None)
        from dstack.api._files import upload

        return _ref(repo, upload(self._transport, self._project, list_items, progress))

    def planned(
        self, repo: Repo | None, files: "Iterable[FileMapping]", folder: Path, path: str = "."
    ) -> "RepoRef | None":
        """Return the result of `upload` with the same arguments, without sending anything.

        Args:
            repo: the repo; None for none.
            files: files and folders to send with the repo.
            folder: the folder to which their paths are relative.
            path: the repo's path in the job.

        Raises:
            ConfigurationError: a file cannot be read.

        Examples:
            >>> from pathlib import Path
            >>> from dstack.api import Client
            >>> Client.from_config().repos.planned(None, [], Path()) is None
            True
        """
        list_items = _items_beside(repo, list(files), folder, path)
        if list_items is None:
            return _ref(repo, None)
        from dstack.api._files import pack

        return _ref(repo, pack(list_items()).root)


def _known_as(here: LocalRepo, known: set[str], *, local: bool) -> LocalRepo | RemoteRepo | None:
    """Return the repo as which a folder was initialized: its remote, or the nearest folder up to the root."""
    from dstack.api import _git, _programs
    from dstack.kit.git import is_remote

    has_git = shutil.which("git") is not None
    root = _programs.root_of(here.folder) if has_git else None
    url = _git.remote_url_of(here.folder) if root is not None else None
    is_known = url is not None and is_remote(url) and RemoteRepo(_git.normal_url(url)[0]).repo_id in known
    if is_known and not local:
        return RemoteRepo.from_dir(here.folder)
    around = [folder for folder in here.folder.parents if root is not None and folder.is_relative_to(root)]
    folders = [here, *map(LocalRepo, around)]
    return next((one for one in folders if one.repo_id in known), folders[-1] if is_known else None)


def new_repo(repo_dir: str | os.PathLike[str]) -> LocalRepo | RemoteRepo:
    """Return the remote of a checkout, or else the folder."""
    from dstack.api._programs import Unreadable

    try:
        return RemoteRepo.from_dir(repo_dir)
    except Unreadable:
        raise
    except ConfigurationError:
        return LocalRepo.from_dir(repo_dir)


def _check_branch(repo: RemoteRepo, refs: "Iterable[str]") -> None:
    names = [name for kind in ("refs/heads/", "refs/tags/") for ref in refs if (name := ref.removeprefix(kind)) != ref]
    if repo.repo_branch and repo.repo_branch not in names:
        raise ConfigurationError(
            f"`{repo.repo_url}` has no branch or tag `{repo.repo_branch}`; it has {listed(names[:10]) or 'none'}",
            hint="Name one of those",
        )


def _opened(repo: RemoteRepo, key_file: str | os.PathLike[str] | None, token: str | None) -> "InitRepo":
    from dstack.api import _git
    from dstack.protocol.requests import InitRepo

    key = _git.read_key(_places.expanded(key_file)) if key_file is not None else None
    if key_file is not None and key is None:
        raise ConfigurationError(
            f"`{key_file}` is not a private key without passphrase that only its owner may read",
            hint="Runs start without a user to type a passphrase: make a key for them with `ssh-keygen`",
        )
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ConfigurationError("The token for the remote has characters that no token has", hint="Copy it again")
    given = _git.Credentials(key, token or repo.token)
    url, credentials, refs = _git.find_credentials(repo.repo_url, given)
    if repo.repo_hash is None:
        _check_branch(repo, refs)
    return InitRepo(kind="remote", url=url, private_key=credentials.private_key, token=credentials.token)


def items_of(mapping: "FileMapping", folder: Path) -> "Iterable[Item]":
    """Return the files that one entry of `files` sends.

    Raises:
        ConfigurationError: the file or folder is missing.
    """
    from dstack.api._files import Item
    from dstack.api._folders import items_in
    from dstack.protocol.files import place_of

    path = place_of(mapping.path)
    source = folder / _places.expanded(mapping.local_path)
    if source.is_dir():
        return items_in(source, _prefix_of(mapping.path))
    if not os.path.lexists(source):
        raise ConfigurationError(f"There is no file `{source}`, which `files` names", hint="Correct its path")
    return [Item(path, source.resolve())]


def _prefix_of(path: str) -> str:
    """Return the beginning of the paths of a folder's files, for the folder's path in the job."""
    from dstack.protocol.files import place_of

    normal = posixpath.normpath(place_of(path))
    return "" if normal == "." else f"{normal}/"


def _items_beside(
    repo: Repo | None, files: "list[FileMapping]", folder: Path, path: str
) -> "Callable[[], Iterable[Item]] | None":
    """Return a function that lists the files of a repo and of `files`; None if there can be none."""
    if not files and (repo is None or (isinstance(repo, RemoteRepo) and repo.folder is None)):
        return None
    prefix = _prefix_of(path)

    def items() -> "Iterable[Item]":
        for item in repo.items() if repo is not None else ():
            yield replace(item, path=f"{prefix}{item.path}") if prefix else item
        for mapping in files:
            yield from items_of(mapping, folder)

    return items


def _ref(repo: Repo | None, root: str | None) -> "RepoRef | None":
    from dstack.protocol.requests import RepoRef

    if repo is not None:
        return repo.ref(root)
    return None if root is None else RepoRef(id="files", kind="virtual", root=root)
