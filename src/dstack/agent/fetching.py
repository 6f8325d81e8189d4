"""A job's files, from where they come to where it finds them: a clone, and on top what was sent."""

import asyncio
import posixpath
from pathlib import Path

from dstack.agent.confidential import check_kept, scratch_folder
from dstack.agent.files import BlobCache, lay_over, make_empty
from dstack.agent.git import clone
from dstack.agent.notes import note
from dstack.agent.paths import JobFolder
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock
from dstack.protocol.agent import JobOrder
from dstack.protocol.files import is_safe_path, place_of


def work_of(order: JobOrder) -> str:
    """Return for people what a job needs before it starts.

    Examples:
        >>> work_of(JobOrder("1", "train", "true", files_root="0" * 64, python="3.12"))
        'fetching its files, making an environment with Python 3.12'
    """
    parts = (
        order.git and f"cloning {order.git.url}",
        order.files_root and "fetching its files",
        order.python and f"making an environment with Python {order.python}",
        order.container and f"fetching the image {order.container.image}",
    )
    return ", ".join(part for part in parts if part) or "getting ready"


async def fetch_files(cache: BlobCache, clock: Clock, folder: JobFolder, order: JobOrder) -> None:
    """Put all files of a job in place, anew.

    Raises:
        AgentRefused: some cannot be had.
        OSError: the disk is full, and the like.
    """
    check_kept(folder)
    await asyncio.to_thread(make_empty, folder.files)
    repo = await asyncio.to_thread(_make_repo_folder, folder, order.repo_path)
    if order.git is not None:
        commit = await clone(order.git, repo, scratch_folder(folder))
        note(folder, clock, f"cloned {order.git.url} at {commit}")
    if order.files_root is not None:
        count = await lay_over(order.files_root, folder.files, cache)
        note(folder, clock, f"put {count} files in place")


def _make_repo_folder(folder: JobFolder, repo_path: str) -> Path:
    place = posixpath.normpath(place_of(repo_path))
    if place != "." and not is_safe_path(place):
        raise AgentRefused(f"The repo's path `{repo_path}` leads out of the job's folder", hint="Correct `repos`")
    path = folder.files / place
    path.mkdir(parents=True, exist_ok=True)
    return path
