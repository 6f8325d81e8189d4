"""Where the client keeps its own things: folders and files under `~/.dstack`."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dstack.errors import ConfigurationError
from dstack.kit.folders import make_private

OTHER_HOME = "Set `HOME` to a folder that this user may write"


def user_home() -> Path:
    """This user's home folder.

    Raises:
        ConfigurationError: neither `HOME` nor the system's list of users names one.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigurationError(f"The user {os.getuid()} has no home folder", hint=OTHER_HOME) from None


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with `~` as this user's home folder.

    Raises:
        ConfigurationError: there is none.
    """
    if os.fspath(path).partition(os.sep)[0] == "~":
        user_home()
    return Path(path).expanduser()


def home() -> Path:
    """`~/.dstack`."""
    return user_home() / ".dstack"


def server_folder() -> Path:
    """Where this user's own server keeps its data: `DSTACK_SERVER_DIR`, or `~/.dstack/server`."""
    return expanded(os.environ.get("DSTACK_SERVER_DIR") or home() / "server").absolute()


def private_folder(path: Path) -> Path:
    """Return the folder, made where it is missing, readable for this user alone, as is `~/.dstack` around it.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        make_private(path, within=home())
    except OSError as error:
        raise ConfigurationError(f"The folder `{path}` cannot be made: {error.strerror}", hint=OTHER_HOME) from error
    return path


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step, so that nobody ever sees half of it. Text is written as UTF-8."""
    import tempfile  # seldom needed, and commands start often

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content if isinstance(content, bytes) else content.encode())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def is_locked(path: Path) -> bool:
    """Whether a living process holds a lock; none where there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among all processes of this user; the kernel frees it when its holder dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
