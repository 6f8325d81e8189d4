"""A clone of a remote repository, as the start of a job's files."""

import asyncio
import os
import shutil
from pathlib import Path

from dstack.agent.commands import run_command
from dstack.agent.paths import make_private_folder
from dstack.errors import AgentRefused
from dstack.kit.git import git_environment, is_remote
from dstack.protocol.agent import GitSource

_ALL = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")


class _Failed(Exception):
    """What `git` said when it failed."""


async def clone(source: GitSource, target: Path, private: Path) -> str:
    """Clone the commit into an empty folder; returns its hash.

    Only that commit is fetched where the remote allows it. No hook runs, and no credentials stay in the clone.

    Args:
        private: a folder for what `git` must not leave behind; removed afterwards.

    Raises:
        AgentRefused: it could not be cloned; says why in `git`'s own words.
    """
    if not is_remote(source.url):
        raise AgentRefused(f"`{source.url}` is no URL of a remote repository", hint="Send the folder itself instead")
    await asyncio.to_thread(make_private_folder, private)
    try:
        env = git_environment(os.environ, private, source.url, source.private_key, source.token)
        return await _clone(source, target, env)
    except _Failed as error:
        raise AgentRefused(f"`{source.url}` could not be cloned: {error}", hint=_hint(str(error))) from None
    finally:
        await asyncio.to_thread(shutil.rmtree, private, ignore_errors=True)


async def _clone(source: GitSource, target: Path, env: dict[str, str]) -> str:
    await _git(target, env, "init", "-q", ".")
    await _git(target, env, "remote", "add", "origin", source.url)
    if source.hash is not None:
        commit = source.hash
        try:
            await _git(target, env, "fetch", "-q", "--depth", "1", "--no-tags", "origin", commit)
        except _Failed:  # an abbreviated hash, or a remote that gives away only its branches
            await _git(target, env, "fetch", "-q", "origin", *_ALL)
    else:
        ref = f"+refs/heads/{source.branch}:refs/remotes/origin/{source.branch}" if source.branch else "HEAD"
        await _git(target, env, "fetch", "-q", "--depth", "1", "--no-tags", "origin", ref)
        commit = f"refs/remotes/origin/{source.branch}" if source.branch else "FETCH_HEAD"
    where = ("-B", source.branch) if source.branch else ("--detach",)
    await _git(target, env, "checkout", "-q", *where, commit)
    return (await _git(target, env, "rev-parse", "HEAD")).strip()


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
