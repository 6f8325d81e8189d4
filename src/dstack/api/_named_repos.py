"""The repo that `repos` of a configuration names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstack.api import _places
from dstack.api._repos import LocalRepo, RemoteRepo, Repo

if TYPE_CHECKING:
    from dstack.api._repo_collection import RepoCollection


def repo_of(repos: "RepoCollection", source: Mapping[str, Any], folder: Path) -> LocalRepo | RemoteRepo:
    """Return the repo that an entry names.

    Args:
        repos: those of the project.
        source: the entry's fields (`spec.repos.RepoSource`).
        folder: the base of its local path.

    Raises:
        ConfigurationError: the folder is missing, or the URL is not one of a Git remote.
    """
    from dstack.api import _git
    from dstack.api._repo_collection import new_repo

    url = source.get("url")
    if url is None:
        place = folder / _places.expanded(source.get("local_path") or ".")
        return repos.find([place]) or new_repo(place)
    branch, commit = source.get("branch"), source.get("hash")
    if branch or commit:
        return RemoteRepo.from_url(url, branch, commit)
    url, token = _git.normal_url(url)
    return RemoteRepo(url, token=token)


def ensure(repos: "RepoCollection", repo: Repo) -> None:
    """Initialize a repo unless it is; raises as `RepoCollection.init`."""
    if not repos.is_initialized(repo):
        repos.init(repo)
