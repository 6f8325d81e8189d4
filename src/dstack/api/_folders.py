"""Which files of a folder travel: what Git would keep. `.git` and what `.gitignore` names stay here.

Git itself answers, also for a folder that is not under Git (with an empty repository made for the question), so that
every rule of `.gitignore` means what it means to Git.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dstack.api._files import Item
from dstack.errors import ConfigurationError

GIT_TIMEOUT_S = 60.0


def files_in(folder: Path) -> list[str]:
    """The paths of files and links, relative to the folder, sorted.

    Raises:
        ConfigurationError: Git cannot answer, or is not there though the folder has a `.gitignore`.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder `{folder}`", hint="Name a folder that exists")
    return sorted(set(_walk(folder, "")))


def items_in(folder: Path, prefix: str = "") -> list[Item]:
    """The files and links of a folder as what a job shall find below `prefix` (with its `/`)."""
    return [Item(f"{prefix}{path}", folder / path, folder) for path in files_in(folder)]


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    for path in _listed(folder):
        whole = folder / path
        if whole.is_dir() and not whole.is_symlink():  # a repository of its own inside this one
            yield from _walk(whole, f"{prefix}{path.rstrip('/')}/")
        elif os.path.lexists(whole):  # what Git tracks may be deleted
            yield prefix + path


def _listed(folder: Path) -> list[str]:
    if _git(folder, "--version") is None:
        return _all_files(folder)
    inside = _git(folder, "rev-parse", "--is-inside-work-tree")
    if inside is not None and inside.strip() == b"true" and _git(folder, "check-ignore", "-q", ".") is None:
        return _split(_git_or_fail(folder, "ls-files", "-co", "--exclude-standard", "-z"))
    with tempfile.TemporaryDirectory(prefix="dstack-git-") as empty:
        _git_or_fail(folder, "init", "-q", "--bare", empty)
        question = "--git-dir", empty, "--work-tree", ".", "ls-files", "-o", "--exclude-standard", "-z"
        return _split(_git_or_fail(folder, *question))


def _split(output: bytes) -> list[str]:
    return [os.fsdecode(path) for path in output.split(b"\0") if path]


def _all_files(folder: Path) -> list[str]:
    paths = []
    for parent, folders, files in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
        if ".gitignore" in files:
            raise ConfigurationError(
                f"`{folder}` has a `.gitignore`, and `git` is not there to say what it leaves out", hint="Install `git`"
            )
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        paths += [os.path.relpath(os.path.join(parent, name), folder) for name in (*files, *links)]
    return paths


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What Git prints, or None where it is not there or says no."""
    try:
        return _run(folder, arguments).stdout
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None


def _git_or_fail(folder: Path, *arguments: str) -> bytes:
    try:
        return _run(folder, arguments).stdout
    except subprocess.CalledProcessError as error:
        words = os.fsdecode(error.stderr).strip().replace("\n", " ")
        raise ConfigurationError(f"`git` cannot list `{folder}`: {words}") from error


def _run(folder: Path, arguments: tuple[str, ...]) -> "subprocess.CompletedProcess[bytes]":
    # fsmonitor would run a program that the folder names; GIT_DIR and its kin would speak of another folder.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(
            f"`git` did not list `{folder}` within {GIT_TIMEOUT_S:.0f} s", hint="Send a smaller folder"
        ) from error
