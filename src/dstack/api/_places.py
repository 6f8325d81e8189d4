"""The client's own folders and files, under `~/.dstack`."""

import os
from pathlib import Path

from dstack.errors import ConfigurationError
from dstack.kit import systems
from dstack.kit.folders import make_private

OTHER_HOME = f"Set `{systems.HOME_VARIABLE}` to a folder that this user may write"


def user_home() -> Path:
    """Return this user's home folder.

    Raises:
        ConfigurationError: neither `HOME` nor the system's list of users names one, or `HOME` is not absolute.
    """
    named = os.environ.get(systems.HOME_VARIABLE)
    if named is not None and not Path(named).is_absolute():  # an empty one would be the root folder
        raise ConfigurationError(f"`{systems.HOME_VARIABLE}` is not an absolute path: {named!r}", hint=OTHER_HOME)
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigurationError(f"The user {systems.user_id()} has no home folder", hint=OTHER_HOME) from None


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with `~` replaced by this user's home folder.

    Raises:
        ConfigurationError: the user has no home folder.
    """
    if Path(path).parts[:1] == ("~",):
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
            file.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(name, mode)
        systems.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
