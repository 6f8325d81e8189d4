"""Which repo a folder was initialized as."""

import json
from pathlib import Path

import pytest

from dstack.api import LocalRepo, RemoteRepo
from dstack.api._repo_collection import RepoCollection
from dstack.api._repos import Repo
from dstack.api._transport import Transport
from dstack.errors import ConfigurationError
from tests.git_servers import GitOverHttp, commit, git, make_remote

from .conftest import Answer, FakeServer

URL = "https://example.com/team/project"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A checkout with a subfolder, in step with its remote, which is said to be elsewhere."""
    work = make_remote(tmp_path, {"sub/main.py": b"one\n"}).resolve()
    git(work, "remote", "set-url", "origin", URL)
    return work


@pytest.fixture
def repos(transport: Transport) -> RepoCollection:
    return RepoCollection(transport, "main")


def know(server: FakeServer, *known: Repo) -> None:
    """Let the server know these as initialized."""
    views = [{"id": one.repo_id, "kind": one.ref(None).kind, "url": None} for one in known]
    server.answer = lambda asked: Answer(body=json.dumps({"repos": views}).encode())


def test_the_root_of_the_checkout_is_found_from_a_subfolder(
    server: FakeServer, repos: RepoCollection, work: Path
) -> None:
    know(server, LocalRepo(work))
    assert repos.find([work / "sub"]) == LocalRepo(work)
    know(server, LocalRepo(work), LocalRepo(work / "sub"))
    assert repos.find([work / "sub"]) == LocalRepo(work / "sub")
    know(server, LocalRepo(work.parent))
    assert repos.find([work / "sub"]) is None


def test_a_checkout_that_is_initialized_as_its_remote_may_be_sent_as_it_is(
    server: FakeServer, repos: RepoCollection, work: Path
) -> None:
    know(server, RemoteRepo(URL))
    assert isinstance(repos.find([work / "sub"]), RemoteRepo)
    assert repos.find([work / "sub"], local=True) == LocalRepo(work)


def test_the_first_folder_that_is_initialized_is_taken(
    server: FakeServer, repos: RepoCollection, work: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    know(server, LocalRepo(work))
    assert repos.find([tmp_path / "elsewhere", work / "sub"]) == LocalRepo(work)


def test_a_checkout_whose_remote_has_none_of_its_commits_is_refused(
    server: FakeServer, repos: RepoCollection, work: Path
) -> None:
    know(server, RemoteRepo(URL))
    git(work, "update-ref", "-d", "refs/remotes/origin/main")
    with pytest.raises(ConfigurationError, match=r"None of the commits .*\n.*`git push` first.*`--local`"):
        repos.find([work])


def test_a_branch_that_the_remote_lacks_is_refused_and_a_tag_is_not(repos: RepoCollection, tmp_path: Path) -> None:
    work = make_remote(tmp_path / "public", {"a": b"a"})
    git(work, "tag", "v1")
    git(work, "push", "-q", "origin", "v1")
    commit(work, {"a": b"b"})
    with GitOverHttp(work.parent) as remote:
        url = remote.url_of("project.git")
        with pytest.raises(ConfigurationError, match="has no branch or tag `mian`; it has `main`, `v1`"):
            repos.check(RemoteRepo.from_url(url, "mian"))
        repos.check(RemoteRepo.from_url(url, "v1"))
        repos.check(RemoteRepo(url))
