"""The files that a run is sent with, and the command line's texts about them."""

import argparse
import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from dstack.kit.text import size_text
from dstack.protocol.statuses import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from dstack.api import Client, LocalRepo, RemoteRepo, Run, RunPlan
    from dstack.api._files import Item
    from dstack.spec.reading import Reading

NONE = "none; run `dstack init` to send this folder's files"
MISSING = re.compile(rb"no such file or directory|can't open file|cannot find module|no module named|not found", re.I)
"""Messages of programs about a missing file."""
WORD = re.compile(r"[^\s'\"|&;<>()$`={}]+")
"""A word of a shell command that may name a file."""
WORDS_MAX = 1000
READ_S = 5.0
"""The last part of a failed run's output, which is searched for them."""
READ_BYTES_MAX = 1 << 20


def find_repo(client: "Client", reading: "Reading", arguments: argparse.Namespace) -> "LocalRepo | RemoteRepo | None":
    """Return the files to send: those that the arguments name, or those of an initialized folder.

    That is this folder, or else the folder of the configuration. None where the configuration names its own (`repos`).

    Raises:
        ConfigurationError: the name is neither a folder nor a remote, or Git cannot read it.
    """
    from pathlib import Path

    from dstack.api import LocalRepo
    from dstack.cli import options

    remote = options.find_remote(arguments.repo, arguments.branch, arguments.hash)
    if remote is not None or arguments.no_repo:
        return remote
    if arguments.repo is not None:
        return client.repos.find([arguments.repo], arguments.local) or LocalRepo.from_dir(arguments.repo)
    if reading.configuration.get("repos"):
        return None
    beside = [] if arguments.file == "-" else [Path(arguments.file).parent]
    return client.repos.find([Path(), *beside], arguments.local)


def plan_text(plan: "RunPlan") -> str:
    """Return the files to send: their number, size and origin.

    Raises:
        ConfigurationError: a file cannot be sent.
    """
    from dstack.api._repo_collection import items_of

    place = f" at `{plan.draft.repo_path}`" if plan.draft.repo_path != "." else ""
    parts = [f"{_repo_text(plan)}{place}"] if plan.repo is not None else []
    if plan.draft.files:
        named = [item for one in plan.draft.files for item in items_of(one, plan.draft.folder)]
        parts.append(f"{_amount(named)} named in `files`")
    return " and ".join(parts) or NONE


def left_behind(plan: "RunPlan") -> str | None:
    """Return a warning if no files are sent, but the commands name one of this folder."""
    if plan.repo is not None or plan.draft.files:
        return None
    spec = plan.draft.request.configuration
    name = named_file([*spec.get("init", ()), *spec.get("commands", ())], os.path.isfile)  # no name is too long for it
    return name and f"`{name}` is here, and this folder's files are not sent: run `dstack init` first"


def named_file(commands: "Iterable[str]", is_here: "Callable[[str], bool]") -> str | None:
    """Return the first word of the commands that names a file by a relative path inside this folder; None without one.

    Examples:
        >>> named_file(["python3 ./train.py --data /data"], {"./train.py", "/data"}.__contains__)
        './train.py'
    """
    words = (word for command in commands for word in WORD.findall(command)[:WORDS_MAX])
    return next((word for word in words if not word.startswith(("/", "-", "../")) and is_here(word)), None)


def _repo_text(plan: "RunPlan") -> str:
    from dstack.api import LocalRepo, RemoteRepo

    match plan.repo:
        case LocalRepo(folder=folder) as repo:
            return f"{_amount(repo.items())} of {_shown(folder)}"
        case RemoteRepo(folder=None) as repo:
            return f"{repo.repo_url} at {repo.repo_hash or repo.repo_branch or 'its HEAD'}"
        case RemoteRepo(folder=folder) as repo if folder is not None:
            commit = f"{repo.repo_url} at {(repo.repo_hash or '')[:9]}"
            items = list(repo.items())
            return f"{commit}, {'with' if items else 'as'} {_amount(items) + ' of' if items else 'in'} {_shown(folder)}"
        case other:
            return _amount(other.items()) if other is not None else NONE


def _amount(items: "Iterable[Item]") -> str:
    from dstack.api._files import measure

    size = measure(items)
    return f"{size.files} file{'' if size.files == 1 else 's'} ({size_text(size.bytes)})"


def _shown(folder: "Path") -> str:
    from dstack.api._places import user_home

    home = user_home()
    return str("~" / folder.relative_to(home)) if folder != home and folder.is_relative_to(home) else str(folder)


def missing_text(run: "Run") -> str | None:
    """Return a hint if a run without files failed and its last output is about a missing file."""
    if run.status is not RunStatus.FAILED or not run.exit_code or not run.view.finished_at or run.view.spec.get("repo"):
        return None
    last = b""
    read_bytes = 0
    for chunk in run.logs(start_time=run.view.finished_at - timedelta(seconds=READ_S)):
        last = (last + chunk)[-READ_BYTES_MAX:]
        read_bytes += len(chunk)
        if read_bytes > READ_BYTES_MAX:
            break
    if MISSING.search(last) is None:
        return None
    return (
        "The run was sent without files. Run `dstack init` in a folder to send its files with each run, "
        "or pass `--repo DIR` once"
    )
