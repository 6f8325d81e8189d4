"""What is written down of a job that is accepted: its order, who may come into it, and since when nobody is in.

Keys are ed25519 alone, one a line, without options and comments.
"""

import logging
from collections.abc import Sequence

from dstack.agent.confidential import forget, keep, public
from dstack.agent.files import remove_tree
from dstack.agent.full_disk import set_aside
from dstack.agent.keeping import write_number
from dstack.agent.output import make_pipe
from dstack.agent.paths import JobFolder, write_json
from dstack.errors import AgentRefused
from dstack.protocol.agent import LOG_STREAMS, JobOrder

log = logging.getLogger(__name__)

KEY_BYTES_MAX = 2000
KEYS_MAX = 100
"""Of a job; the oldest go."""
KEY_TYPE = "ssh-ed25519"


def accept(folder: JobFolder, order: JobOrder) -> None:
    """Write down a job, or leave nothing of it behind. Blocks.

    Raises:
        OSError: the disk is full, and the like.
    """
    is_new = not folder.root.exists()
    try:
        _write_down(folder, order)
    except OSError:
        forget(folder)
        if is_new:
            remove_tree(folder.root)
        raise


def _write_down(folder: JobFolder, order: JobOrder) -> None:
    """The order comes last, as a sign that all is there."""
    folder.root.mkdir(mode=0o700, exist_ok=True)
    for stream in LOG_STREAMS:
        folder.log(stream).touch(mode=0o600)
    write_number(folder.log_start("job"), 0)
    make_pipe(folder)
    set_aside(folder.end)
    for path in (folder.pid, folder.stop):
        set_aside(path, again=True)
    _write_keys(folder, [line for key in order.authorized_keys if (line := _key_line(key)) is not None])
    keep(folder, order)
    write_json(folder.order, public(order))


def let_in(folder: JobFolder, key: str) -> str | None:
    """Let the holder of a key into a job. Returns its line; None where it was in already.

    Raises:
        AgentRefused: this is no such key.
    """
    if (line := _key_line(key)) is None:
        raise AgentRefused("This is not an ed25519 public key", hint="Make one with `ssh-keygen -t ed25519`")
    keys = keys_of(folder)
    if line in keys:
        return None
    _write_keys(folder, [*keys, line])
    return line


def note_alone(folder: JobFolder, since: float | None) -> None:
    """Write down since when nobody is in a job, in seconds since the epoch; None while somebody is."""
    try:
        if since is None:
            folder.alone.unlink(missing_ok=True)
        else:
            write_json(folder.alone, {"since": since})
    except OSError as error:  # the next agent then counts from its own start
        log.warning("The time since the last session of job %s is not stored: %s", folder.job_id, error)


def keys_of(folder: JobFolder) -> list[str]:
    """The keys that may open the way into a job, one a line. Those that are lost are let in again by `attach`."""
    try:
        return folder.authorized_keys.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _write_keys(folder: JobFolder, keys: Sequence[str]) -> None:
    draft = folder.root / ".authorized_keys"
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{key}\n" for key in keys[-KEYS_MAX:]))
    draft.rename(folder.authorized_keys)


def _key_line(key: str) -> str | None:
    """Type and key without options and comment; None where it is no ed25519 key."""
    parts = key.split()
    if len(key) > KEY_BYTES_MAX or len(parts) < 2 or parts[0] != KEY_TYPE or not key.isprintable():
        return None
    return f"{parts[0]} {parts[1]}"
