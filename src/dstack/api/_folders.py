"""The files of a folder that are sent: all but `.git` and the files that `.gitignore` or `.dstackignore` name.

Git itself applies the rules of both files. For a folder outside Git, it does so with an empty temporary repository.
`.dstackignore` applies to tracked files too.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dstack.api import _programs
from dstack.api._files import Item
from dstack.errors import ConfigurationError

IGNORE = ".dstackignore"


@dataclass(frozen=True, slots=True)
class _Found:
    path: str
    is_tracked: bool


def items_in(folder: Path, prefix: str = "") -> list[Item]:
    """Return the files and links of a folder, sorted.

    Args:
        folder: the folder.
        prefix: the path in the job, with a `/` at its end, that goes before each path.

    Raises:
        ConfigurationError: Git fails, or is missing and the folder has ignore rules; or a submodule is not checked
            out.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder `{folder}`", hint="Name a folder that exists")
    found = {one.path: one.is_tracked for one in _walk(folder, "")}
    return [Item(f"{prefix}{path}", folder / path, folder, is_tracked) for path, is_tracked in sorted(found.items())]


def items_of_submodule(root: Path, path: str) -> list[Item]:
    """Return the files of a submodule of a checkout.

    Raises:
        ConfigurationError: the submodule is not checked out; or as for `items_in`.
    """
    if not os.path.lexists(root / path / ".git"):
        raise ConfigurationError(
            f"The submodule `{path}` of `{root}` is not checked out, so its files cannot be sent",
            hint=f"`git submodule update --init --recursive {path}`, or name it in `{IGNORE}` to leave it out",
        )
    return items_in(root / path, f"{path}/")


def left_out(folder: Path, listed: list[str], *where: str) -> set[str]:
    """Return the paths that a `.dstackignore` names, including those of tracked files.

    Args:
        folder: the folder; it is in a checkout unless `where` is given.
        listed: the paths that Git lists in the folder.
        where: Git's options that name its repository.
    """
    is_below = any(path.rpartition("/")[2] == IGNORE for path in listed)
    if not is_below and not any((parent / IGNORE).exists() for parent in (folder, *folder.parents)):
        return set()
    kinds = ("-o",) if where else ("-c", "-o")
    question = (*where, "ls-files", *kinds, "-i", f"--exclude-per-directory={IGNORE}", "-z")
    return set(_programs.paths_of(_programs.git_or_refuse(folder, *question)))


def _walk(folder: Path, prefix: str) -> Iterator[_Found]:
    for one in _listed(folder):
        whole = folder / one.path
        if not whole.is_dir() or whole.is_symlink():
            if os.path.lexists(whole):  # a tracked file may be deleted
                yield _Found(prefix + one.path, one.is_tracked)
        elif one.path.endswith("/"):  # another repository inside this one
            yield from _walk(whole, prefix + one.path)
        elif _is_submodule(folder, one.path):
            for item in items_of_submodule(folder, one.path):
                yield _Found(prefix + item.path, item.is_tracked)


def _is_submodule(folder: Path, path: str) -> bool:
    """Whether Git records a submodule at the path, and not a file that a folder has replaced."""
    return b"160000 " in _programs.git_or_refuse(folder, "ls-files", "-s", "-z", "--", f":(literal){path}")


def _listed(folder: Path) -> list[_Found]:
    if shutil.which("git") is None:
        return [_Found(path, False) for path in _all_files(folder)]
    root = _programs.root_of(folder)
    if root is not None and not _is_ignored(folder):
        return _asked(folder, "-co")
    with tempfile.TemporaryDirectory(prefix="dstack-git-") as empty:
        _programs.git_or_refuse(folder, "init", "-q", "--bare", empty)
        return _asked(folder, "-o", "--git-dir", empty, "--work-tree", ".")


def _asked(folder: Path, kinds: str, *where: str) -> list[_Found]:
    question = (*where, "ls-files", "-t", kinds, "--exclude-standard", "-z")
    lines = _programs.paths_of(_programs.git_or_refuse(folder, *question))
    found = [_Found(line[2:], line[0] != "?") for line in lines]
    stays = left_out(folder, [one.path for one in found], *where)
    return [one for one in found if one.path not in stays]


def _is_ignored(folder: Path) -> bool:
    """Whether the repository around a folder ignores the folder."""
    try:
        _programs.git(folder, "check-ignore", "-q", ".")
    except _programs.Failed:
        return False
    return True


def _all_files(folder: Path) -> list[str]:
    paths = []
    for parent, folders, files in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
        for rules in (".gitignore", IGNORE):
            if rules in files:
                raise ConfigurationError(
                    f"`{folder}` has a `{rules}`, and `git` is missing, which knows what it leaves out",
                    hint="Install `git`",
                )
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        paths += [os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/") for name in (*files, *links)]
    return paths
