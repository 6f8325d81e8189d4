"""The client's own folders and files, under `~/.dstack`."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dstack.errors import ConfigurationError
from dstack.kit.folders import make_private

OTHER_HOME = "Set `HOME` to a folder that this user may write"


def user_home() -> Path:
    """Return this user's home folder.

    Raises:
        ConfigurationError: neither `HOME` nor the system's list of users names one.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigurationError(f"The user {os.getuid()} has no home folder", hint=OTHER_HOME) from None


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with `~` replaced by this user's home folder.

    Raises:
        ConfigurationError: the user has no home folder.
    """
    if os.fspath(path).partition(os.sep)[0] == "~":
        user_home()
    return Path(path).expanduser()


def home() -> Path:
    """Return the path of `~/.dstack`."""
    return user_home() / ".dstack"


def server_folder() -> Path:
    """Return the data folder of this user's server: `DSTACK_SERVER_DIR`, or `~/.dstack/server`."""
    return expanded(os.environ.get("DSTACK_SERVER_DIR") or home() / "server").absolute()


def private_folder(path: Path) -> Path:
    """Create a folder if it is missing, and return it. Only this user can read it, and `~/.dstack` around it.

    Raises:
        ConfigurationError: the folder cannot be created.
    """
    try:
        make_private(path, within=home())
    except OSError as error:
        raise ConfigurationError(f"The folder `{path}` cannot be made: {error.strerror}", hint=OTHER_HOME) from error
    return path


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Replace a file atomically. Text is written as UTF-8."""
    import tempfile  # rarely needed, and slow to import

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
    """Whether a process holds the lock of a file. A missing file is not locked."""
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
    """Hold an exclusive lock among all processes of this user. The kernel releases it when its holder dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
