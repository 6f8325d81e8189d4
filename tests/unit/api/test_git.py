"""How a checkout differs from what a clone of its remote would have."""

import os
import shutil
from pathlib import Path

import pytest

from dstack.api import RemoteRepo
from dstack.errors import ConfigurationError
from tests.git_servers import commit, git, make_remote

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5\n".encode()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A checkout in step with its remote, which is said to be elsewhere."""
    work = make_remote(tmp_path, {"main.py": b"one\n", "data/big": b"big\n"})
    git(work, "remote", "set-url", "origin", "https://example.com/team/project")
    return work


def sent(work: Path) -> dict[str, str | None]:
    """What lies over the clone: the text of each file, None for those that are gone."""
    items = RemoteRepo.from_dir(work).items()
    return {item.path: item.source.read_text() if isinstance(item.source, Path) else None for item in items}


def add_submodule(work: Path) -> Path:
    library = make_remote(work.parent / "of-library", {"lib.py": b"lib\n"})
    git(work, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    commit(work, {})
    git(work, "push", "-q", str(work.parent / "project.git"), "main")
    git(work, "update-ref", "refs/remotes/origin/main", "HEAD")
    return work / "lib"


def test_a_checkout_in_step_with_its_remote_sends_nothing(work: Path) -> None:
    assert sent(work) == {}


def test_the_files_of_submodules_are_sent_with_what_differs_in_them(work: Path) -> None:
    library = add_submodule(work)
    assert sent(work) == {"lib/lib.py": "lib\n"}
    (library / "lib.py").write_text("changed\n")
    (library / "new.py").write_text("new\n")
    assert sent(work) == {"lib/lib.py": "changed\n", "lib/new.py": "new\n"}


def test_a_submodule_that_is_not_checked_out_is_refused_by_name(work: Path) -> None:
    add_submodule(work)
    git(work, "submodule", "deinit", "-q", "-f", "lib")
    with pytest.raises(ConfigurationError, match=r"submodule `lib` of .* is not checked out"):
        sent(work)
    (work / ".dstackignore").write_text("lib\n")
    assert sent(work) == {".dstackignore": "lib\n"}


def test_the_files_of_git_lfs_are_sent_since_a_clone_has_pointers(work: Path) -> None:
    commit(work, {".gitattributes": b"*.bin filter=lfs -text\n", "model.bin": POINTER})
    git(work, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(work, "config", "filter.lfs.clean", f"cat >/dev/null; printf '{POINTER.decode()}'".replace("\n", "\\n"))
    (work / "model.bin").write_bytes(b"model")
    assert sent(work) == {"model.bin": "model"}


def test_a_filter_that_is_missing_is_named_with_a_way_out(work: Path) -> None:
    commit(work, {".gitattributes": b"*.bin filter=lfs -text\n", "model.bin": POINTER})
    git(work, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(work, "config", "filter.lfs.clean", "git-lfs-of-nobody clean")
    git(work, "config", "filter.lfs.required", "true")
    (work / "model.bin").write_bytes(b"m" * len(POINTER))
    os.utime(work / "model.bin", (0, 0))  # Git reads a file of the size on record only where its time is another
    with pytest.raises(ConfigurationError, match=r"Git cannot read .*git-lfs-of-nobody.*\n.*`git-lfs`.*`--local`"):
        sent(work)


@pytest.mark.parametrize(("name", "value"), [("diff.algorithm", "bogus"), ("diff.renameLimit", "many")])
def test_a_bad_setting_is_quoted_in_gits_words(work: Path, name: str, value: str) -> None:
    git(work, "config", name, value)
    with pytest.raises(ConfigurationError, match=rf"(?i)Git cannot read .*{name}.*\n.*Correct the setting"):
        sent(work)


def test_what_dstackignore_names_is_not_sent(work: Path) -> None:
    (work / ".dstackignore").write_text("data/\n*.log\n")
    (work / "data" / "big").write_text("changed")
    (work / "data" / "new").write_text("new")
    (work / "x.log").write_text("x")
    (work / "y.txt").write_text("y")
    assert sent(work) == {".dstackignore": "data/\n*.log\n", "y.txt": "y"}


def test_an_absolute_link_may_stand_where_git_tracks_it(work: Path) -> None:
    (work / "weights").symlink_to("/mnt/weights")
    (item,) = RemoteRepo.from_dir(work).items()
    assert not item.is_tracked
    git(work, "add", "weights")
    (item,) = RemoteRepo.from_dir(work).items()
    assert item.is_tracked


def test_a_checkout_whose_submodule_was_removed_sends_nothing_of_it(work: Path) -> None:
    add_submodule(work)
    shutil.rmtree(work / "lib")
    assert "lib/lib.py" not in sent(work)
