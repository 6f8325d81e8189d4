"""Where the files of a run come from. So far that is a folder of this machine."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from dstack.api import _files
from dstack.api._transport import Transport
from dstack.errors import ConfigurationError
from dstack.protocol.requests import RepoRef


@dataclass(frozen=True, slots=True)
class LocalRepo:
    """A folder of this machine, sent with a run.

    Example:
        >>> repo = LocalRepo.from_dir(".")
        >>> repo.repo_id.startswith("local-")
        True
    """

    folder: Path

    @staticmethod
    def from_dir(repo_dir: str | os.PathLike[str]) -> "LocalRepo":
        """The repo of a folder; its files, without `.git` and what `.gitignore` names, land in the job's folder.

        Raises:
            ConfigurationError: there is no such folder.
        """
        folder = Path(repo_dir).expanduser().resolve()
        if not folder.is_dir():
            raise ConfigurationError(f"There is no folder `{repo_dir}`", hint="Name a folder that exists")
        return LocalRepo(folder)

    @property
    def repo_id(self) -> str:
        """The same for the same folder, without telling its path."""
        return f"local-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}"


class RepoCollection:
    """Operations with repos."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._project = project

    def init(
        self,
        repo: LocalRepo,
        git_identity_file: str | os.PathLike[str] | None = None,
        oauth_token: str | None = None,
    ) -> None:
        """Prepare a repo for runs: sends its files, so that the next submit moves only what changed since.

        Args:
            repo: the repo.
            git_identity_file: for remote repos only.
            oauth_token: for remote repos only.

        Raises:
            ConfigurationError: credentials were given for a folder, or the folder cannot be sent.
        """
        if git_identity_file is not None or oauth_token is not None:
            raise ConfigurationError("A `LocalRepo` takes no Git credentials", hint="Leave them out")
        self.upload(repo)

    def upload(self, repo: LocalRepo, progress: _files.Progress | None = None) -> RepoRef:
        """Send the repo's files and return how a run refers to them.

        Raises:
            ConfigurationError: the folder cannot be sent; says which file and why.
        """
        root = _files.upload(self._transport, self._project, repo.folder, progress)
        return RepoRef(id=repo.repo_id, kind="local", root=root)
