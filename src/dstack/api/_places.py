"""Where the client keeps its own things: folders and files under `~/.dstack`."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dstack.kit.folders import make_private


def home() -> Path:
    """`~/.dstack`."""
    return Path.home() / ".dstack"


def server_folder() -> Path:
    """Where this user's own server keeps its data: `DSTACK_SERVER_DIR`, or `~/.dstack/server`."""
    return Path(os.environ.get("DSTACK_SERVER_DIR") or home() / "server").expanduser().absolute()


def private_folder(path: Path) -> Path:
    """The folder, made where it is missing, readable for this user alone; so is `~/.dstack`, where it lies in that."""
    make_private(path, within=home())
    return path


def write_whole(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Replace a file in one step, so that nobody ever sees half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among all processes of this user; the kernel frees it when its holder dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
