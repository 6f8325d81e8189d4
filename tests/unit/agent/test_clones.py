"""Clones of real remotes: what of them a job finds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.agent.git import clone
from dstack.errors import AgentRefused
from dstack.protocol.agent import GitSource
from tests.git_servers import GitOverHttp, commit, git, make_remote

TOKEN = "s3cret-token"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5\n".encode()
LFS = {".gitattributes": b"*.bin filter=lfs -text\n", "data/model.bin": POINTER}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A checkout whose remote is `project.git` beside it."""
    return make_remote(tmp_path, {"main.py": b"one\n"})


@pytest.fixture
def remote(work: Path) -> Iterator[GitOverHttp]:
    with GitOverHttp(work.parent, token=TOKEN) as server:
        yield server


async def cloned(server: GitOverHttp, folder: Path, **what: str | bool | None) -> Path:
    """A clone in a new folder."""
    target = folder / "clone"
    target.mkdir()
    source = GitSource(server.url_of("project.git"), token=TOKEN, **what)  # type: ignore[arg-type]
    await clone(source, target, folder / "private")
    return target


def add_submodule(work: Path, url: str) -> None:
    """Put `library.git` into the checkout, and tell clones to look for it at the URL."""
    make_remote(work.parent / "of", {"lib.py": b"lib\n"})
    (work.parent / "of" / "project.git").rename(work.parent / "library.git")
    library = str(work.parent / "library.git")
    git(work, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library, "lib")
    git(work, "config", "-f", ".gitmodules", "submodule.lib.url", url)
    commit(work, {})
    git(work, "push", "-q", "origin", "main")


async def test_without_branch_and_commit_the_remotes_head_is_cloned(
    work: Path, remote: GitOverHttp, tmp_path: Path
) -> None:
    git(work, "checkout", "-q", "-b", "trunk")
    commit(work, {"main.py": b"trunk\n"})
    git(work, "push", "-q", "origin", "trunk")
    git(work.parent / "project.git", "symbolic-ref", "HEAD", "refs/heads/trunk")
    assert ((await cloned(remote, tmp_path)) / "main.py").read_text() == "trunk\n"


async def test_a_tag_stands_where_a_branch_may(work: Path, remote: GitOverHttp, tmp_path: Path) -> None:
    git(work, "tag", "-a", "v1.0", "-m", "a release")
    git(work, "push", "-q", "origin", "v1.0")
    commit(work, {"main.py": b"two\n"})
    git(work, "push", "-q", "origin", "main")
    assert ((await cloned(remote, tmp_path, branch="v1.0")) / "main.py").read_text() == "one\n"


async def test_a_name_of_neither_branch_nor_tag_is_refused(remote: GitOverHttp, tmp_path: Path) -> None:
    with pytest.raises(AgentRefused, match=r"could not be cloned: .*refs/heads/nope"):
        await cloned(remote, tmp_path, branch="nope")


@pytest.mark.parametrize("url", ["../library.git", "git@127.0.0.1:library.git"])
async def test_submodules_are_cloned_with_the_credentials_of_the_remote(
    work: Path, remote: GitOverHttp, tmp_path: Path, url: str
) -> None:
    add_submodule(work, url)
    target = await cloned(remote, tmp_path, branch="main")
    assert (target / "lib" / "lib.py").read_text() == "lib\n"
    kept = [path for path in (target / ".git").rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert kept == []


async def test_a_submodule_that_cannot_be_had_is_refused_with_the_way_out(
    work: Path, remote: GitOverHttp, tmp_path: Path
) -> None:
    add_submodule(work, "../nowhere.git")
    with pytest.raises(AgentRefused, match=r"A submodule of .* could not be cloned: .*lib") as caught:
        await cloned(remote, tmp_path, branch="main")
    assert "--repo DIR" in (caught.value.hint or "")


async def test_submodules_and_lfs_that_are_sent_are_not_fetched(
    work: Path, remote: GitOverHttp, tmp_path: Path
) -> None:
    add_submodule(work, "../nowhere.git")
    commit(work, LFS)
    git(work, "push", "-q", "origin", "main")
    target = await cloned(remote, tmp_path, branch="main", parts_sent=True)
    assert (target / "data" / "model.bin").read_bytes() == POINTER


async def test_files_of_git_lfs_are_refused_by_name_where_it_is_missing(
    work: Path, remote: GitOverHttp, tmp_path: Path
) -> None:
    commit(work, LFS)
    git(work, "push", "-q", "origin", "main")
    with pytest.raises(AgentRefused, match=r"in Git LFS, `data/model.bin`: there is no `git-lfs`"):
        await cloned(remote, tmp_path, branch="main")


async def test_git_lfs_fetches_its_files(
    work: Path, remote: GitOverHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "git-lfs"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = pull ] && printf model > data/model.bin\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    commit(work, LFS)
    git(work, "push", "-q", "origin", "main")
    target = await cloned(remote, tmp_path, branch="main")
    assert (target / "data" / "model.bin").read_text() == "model"
