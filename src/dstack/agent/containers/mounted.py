"""The files that are mounted into a container: where they lie on this host, and whose they are."""

import asyncio
import io
import os
import platform
import tarfile
from pathlib import Path
from threading import get_ident

from dstack.agent.containers.api import ContainerEngine
from dstack.agent.containers.creation import script_text
from dstack.agent.containers.launcher import launcher
from dstack.agent.environment import resolve_working_dir
from dstack.agent.files import remove_tree
from dstack.agent.paths import JobFolder, read_json, write_json
from dstack.errors import AgentRefused
from dstack.protocol.agent import JobOrder
from dstack.protocol.files import ABSOLUTE

FILE_BYTES_MAX = 4 << 20


def lay_out(folder: JobFolder, order: JobOrder, program: Path) -> None:
    """Make all that is mounted: who the job is in its container may not be who the agent is. Blocks.

    Args:
        program: where the launcher shall lie.

    Raises:
        AgentRefused: a folder cannot be made.
    """
    if not os.path.isabs(order.working_dir):  # an absolute one is the container's own: its engine makes it
        resolve_working_dir(folder.files, order.working_dir).mkdir(parents=True, exist_ok=True)
    if (elsewhere := folder.files / ABSOLUTE).is_dir():
        # An earlier agent may have come as far, and died before the job's container was written down.
        remove_tree(folder.absolute)
        elsewhere.rename(folder.absolute)
        _check_inside(folder, order)
    folder.script.write_text(script_text(order))
    folder.script.chmod(0o644)
    for mount in order.container.mounts if order.container else ():
        _make_source(folder, Path(mount.source), optional=mount.optional)
    code = launcher(platform.machine())
    if not program.is_file() or program.read_bytes() != code:  # or it was damaged, or an older version made it
        draft = program.with_name(f".{program.name}.{os.getpid()}.{get_ident()}")
        draft.write_bytes(code)
        draft.chmod(0o755)
        draft.rename(program)


def _make_source(folder: JobFolder, source: Path, *, optional: bool) -> None:
    """Make a missing folder of the host that is mounted, and record that it is the job's."""
    try:
        if not source.exists():
            # First: an agent that takes over in between must know whose it is.
            write_json(folder.made, {"folders": [*made_for(folder), str(source)]})
            source.mkdir(parents=True, exist_ok=True)  # another job may be first
    except OSError as error:
        if optional:
            return
        raise AgentRefused(
            f"The folder `{source}` cannot be mounted: {error.strerror}", hint="Correct `volumes`"
        ) from None


def made_for(folder: JobFolder) -> list[str]:
    """Return the folders of this host that were made because the job mounts them."""
    known = read_json(folder.made, lambda body: [str(one) for one in body["folders"]])
    return known or []


def _check_inside(folder: JobFolder, order: JobOrder) -> None:
    """Links were looked at where they lay before, and may lead elsewhere from here."""
    root = folder.absolute.resolve()
    for path in order.container.files if order.container else ():
        if folder.absolute.is_symlink() or not (root / path.lstrip("/")).resolve().is_relative_to(root):
            raise AgentRefused(f"The link that `files` puts at `{path}` leads out of the run's files", hint="Remove it")


async def give_files(engine: ContainerEngine, folder: JobFolder, id: str, user: str) -> tuple[int, int]:
    """Make the job's files those of who the job is. Returns the numbers of the user and the group.

    Args:
        id: of the container, which need not run.
        user: `name_or_id[:group_name_or_id]`, or nothing.

    Raises:
        AgentRefused: there is no such user in the image.
        EngineAway, EngineRefused
    """
    if user.partition(":")[0] in ("", "root", "0"):
        return 0, 0
    ids = ids_of(user, await _text(engine, id, "/etc/passwd"), await _text(engine, id, "/etc/group"))
    if ids is None:
        raise AgentRefused(f"There is no user `{user}` in the image", hint="Name one of its users, or a number")
    for path in (folder.files, folder.absolute):
        await asyncio.to_thread(_chown, path, *ids)
    return ids


def ids_of(user: str, passwd: str, group: str) -> tuple[int, int] | None:
    """The user's and the group's number of `name_or_id[:group_name_or_id]`; None where there is no such one.

    Args:
        passwd: the image's `/etc/passwd`, or nothing where it has none.
        group: its `/etc/group`.

    Examples:
        >>> ids_of("me", "me:x:1000:100::/home/me:/bin/sh\\n", ""), ids_of("7:8", "", "")
        ((1000, 100), (7, 8))
    """
    name, _, group_name = user.partition(":")
    users = _rows(passwd)
    row = next((row for row in users if row[0] == name or (name.isdigit() and row[2] == name)), None)
    if row is None and not name.isdigit():
        return None
    uid, own_gid = (int(row[2]), int(row[3])) if row else (int(name), 0)
    if not group_name:
        return uid, own_gid
    gid = next((int(row[2]) for row in _rows(group) if row[0] == group_name), None)
    if gid is None and group_name.isdigit():
        gid = int(group_name)
    return None if gid is None else (uid, gid)


def _rows(text: str) -> list[list[str]]:
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= 4 and row[2].isdigit() and (row[3].isdigit() or len(row) == 4)]


async def _text(engine: ContainerEngine, id: str, path: str) -> str:
    """A small text file of a container; nothing where it is not there."""
    async with engine.exchange("GET", f"/containers/{id}/archive", query={"path": path}) as answer:
        if answer.status != 200:
            return ""
        packed = await answer.read(FILE_BYTES_MAX)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        first = archive.next()
        content = archive.extractfile(first) if first is not None else None
        return content.read().decode(errors="replace") if content is not None else ""


def _chown(folder: Path, uid: int, gid: int) -> None:
    """Give a folder away, where this user may; where not, let everybody into it."""
    is_root = os.geteuid() == 0
    for parent, _, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in files)):
            if is_root:
                os.chown(path, uid, gid, follow_symlinks=False)
            elif not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode | (0o777 if path == parent else 0o666))
