"""The repo that `repos` of a configuration names."""

from pathlib import Path
from typing import TYPE_CHECKING

from dstack.api import _places
from dstack.api._repos import LocalRepo, RemoteRepo, Repo

if TYPE_CHECKING:
    from dstack.api._repo_collection import RepoCollection
    from dstack.spec.repos import RepoSource


def repo_of(repos: "RepoCollection", source: "RepoSource", folder: Path) -> LocalRepo | RemoteRepo:
    """Return the repo that an entry names.

    Args:
        repos: those of the project.
        source: the entry.
        folder: the base of its local path.

    Raises:
        ConfigurationError: the folder is missing, or the URL is not one of a Git remote.
    """
    from dstack.api import _git
    from dstack.api._repo_collection import new_repo

    if source.url is None:
        place = folder / _places.expanded(source.local_path or ".")
        return repos.find([place]) or new_repo(place)
    if source.branch or source.hash:
        return RemoteRepo.from_url(source.url, source.branch, source.hash)
    url, token = _git.normal_url(source.url)
    return RemoteRepo(url, token=token)


def ensure(repos: "RepoCollection", repo: Repo) -> None:
    """Initialize a repo unless it is; raises as `RepoCollection.init`."""
    if not repos.is_initialized(repo):
        repos.init(repo)
