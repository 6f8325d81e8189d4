"""A clone of a remote repository, as the start of a job's files."""

import asyncio
import os
import shutil
from pathlib import Path

from dstack.agent.commands import run_command
from dstack.agent.paths import make_private_folder
from dstack.errors import AgentRefused
from dstack.kit.git import git_environment, is_lfs_pointer, is_remote
from dstack.kit.text import first_of
from dstack.protocol.agent import GitSource

_ALL = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")

NO_REF = "couldn't find remote ref"
LFS = ":(attr:filter=lfs)"
SEND_CHECKOUT = "Send a checkout that has them all: `dstack apply --repo DIR` (`RemoteRepo.from_dir`)"


class _Failed(Exception):
    """What `git` said when it failed."""


async def clone(source: GitSource, target: Path, private: Path) -> str:
    """Clone the commit into an empty folder; returns its hash.

    Only that commit is fetched where the remote allows it, with its submodules and files in Git LFS unless those are
    sent. No hook runs, and no credentials stay in the clone.

    Args:
        private: a folder for what `git` must not leave behind; removed afterwards.

    Raises:
        AgentRefused: it could not be cloned; says why in `git`'s own words.
    """
    if not is_remote(source.url):
        raise AgentRefused(
            f"`{source.url}` is not the URL of a remote repository", hint="Send the folder itself instead"
        )
    await asyncio.to_thread(make_private_folder, private)
    try:
        env = git_environment(os.environ, private, source.url, source.private_key, source.token)
        env["GIT_LFS_SKIP_SMUDGE"] = "1"  # the files are fetched all at once, where they are fetched
        return await _clone(source, target, env)
    except _Failed as error:
        raise AgentRefused(f"`{source.url}` could not be cloned: {error}", hint=_hint(str(error))) from None
    finally:
        await asyncio.to_thread(shutil.rmtree, private, ignore_errors=True)


async def _clone(source: GitSource, target: Path, env: dict[str, str]) -> str:
    await _git(target, env, "init", "-q", ".")
    await _git(target, env, "remote", "add", "origin", source.url)
    if source.hash is None:
        where = await _fetch_newest(target, env, source.branch)
    else:
        where = ("-B", source.branch, source.hash) if source.branch else ("--detach", source.hash)
        try:
            await _git(target, env, "fetch", "-q", "--depth", "1", "--no-tags", "origin", source.hash)
        except _Failed:  # an abbreviated hash, or a remote that gives away only its branches
            await _git(target, env, "fetch", "-q", "origin", *_ALL)
    await _git(target, env, "checkout", "-q", *where)
    if not source.parts_sent:
        await _fetch_submodules(source.url, target, env)
        await _fetch_lfs(source.url, target, env)
    return (await _git(target, env, "rev-parse", "HEAD")).strip()


async def _fetch_newest(target: Path, env: dict[str, str], name: str | None) -> tuple[str, ...]:
    """Fetch a branch, or else a tag, of that name, or what the remote's HEAD is; returns how to check it out."""
    fetch = ("fetch", "-q", "--depth", "1", "--no-tags", "origin")
    if name is None:
        await _git(target, env, *fetch, "HEAD")
        return "--detach", "FETCH_HEAD"
    try:
        await _git(target, env, *fetch, f"+refs/heads/{name}:refs/remotes/origin/{name}")
    except _Failed as error:
        if NO_REF not in str(error):
            raise
        try:
            await _git(target, env, *fetch, f"+refs/tags/{name}:refs/tags/{name}")
        except _Failed:
            raise error from None
        return "--detach", f"refs/tags/{name}"
    return "-B", name, f"refs/remotes/origin/{name}"


async def _fetch_submodules(url: str, target: Path, env: dict[str, str]) -> None:
    if not await _has_submodules(target):
        return
    update = ("submodule", "update", "-q", "--init", "--recursive")
    try:
        try:
            await _git(target, env, *update, "--depth", "1")
        except _Failed:  # a remote that gives away only its branches
            await _git(target, env, *update)
    except _Failed as error:
        raise AgentRefused(f"A submodule of `{url}` could not be cloned: {error}", hint=SEND_CHECKOUT) from None


async def _has_submodules(target: Path) -> bool:
    return await asyncio.to_thread((target / ".gitmodules").is_file)


async def _fetch_lfs(url: str, target: Path, env: dict[str, str]) -> None:
    """Fetch the files in Git LFS in place of their pointers."""
    pointers = await _pointers(target, env)
    if not pointers:
        return
    said = "there is no `git-lfs` on the job's machine"
    if shutil.which("git-lfs", path=env.get("PATH")) is not None:
        try:
            await _git(target, env, "lfs", "pull")
            await _git(target, env, "submodule", "-q", "foreach", "--recursive", "git lfs pull")
            said = "`git lfs pull` left them out"
        except _Failed as error:
            said = str(error)
        pointers = await _pointers(target, env)
    if pointers:
        raise AgentRefused(f"Files of `{url}` are in Git LFS, {first_of(pointers)}: {said}", hint=SEND_CHECKOUT)


async def _pointers(target: Path, env: dict[str, str]) -> list[str]:
    """Return the files of the clone and of its submodules that are pointers of Git LFS."""
    ask = ("-c", "core.quotePath=false")
    listed = await _git(target, env, *ask, "ls-files", LFS)
    if await _has_submodules(target):
        named = f"git {' '.join(ask)} ls-files '{LFS}' | while IFS= read -r path; do echo \"$displaypath/$path\"; done"
        listed += await _git(target, env, "submodule", "-q", "foreach", "--recursive", named)
    return await asyncio.to_thread(lambda: [path for path in listed.splitlines() if _is_pointer(target / path)])


def _is_pointer(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and is_lfs_pointer(file)


async def _git(folder: Path, env: dict[str, str], *arguments: str) -> str:
    try:
        code, said = await run_command(("git", *arguments), folder, env)
    except FileNotFoundError:
        raise AgentRefused(
            "There is no `git` on the job's machine", hint="Install it there, or send the folder itself"
        ) from None
    if code != 0:
        raise _Failed("; ".join(line for line in said.splitlines() if line.strip())[-1000:] or f"exit code {code}")
    return said


def _hint(said: str) -> str:
    refused = ("Authentication failed", "Permission denied", "could not read Username", "not found", "403", "401")
    if any(word in said for word in refused):
        return "Initialize the repo again with credentials that may read it: `dstack init`"
    return "Check the URL, branch and hash, and whether the job's machine reaches the remote"
