"""The OpenSSH configuration for `ssh <run>`: one line in `~/.ssh/config`, the rest in files in `~/.dstack/ssh`."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePath

from dstack.api import _places
from dstack.errors import ConfigurationError
from dstack.kit import systems
from dstack.kit.locks import locked
from dstack.kit.systems import HOSTS_FILE

logger = logging.getLogger("dstack.api")

INCLUDE = "Include ~/.dstack/ssh/config"
INCLUDES_MAX = 4
"""The deepest level of included files that is searched."""
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr"
"""AES first: OpenSSH prefers ChaCha20, with which a forward is half as fast."""


@dataclass(frozen=True, slots=True)
class Host:
    """An entry for one job in OpenSSH's configuration."""

    name: str
    hostname: str
    port: int
    user: str
    identity_file: Path
    host_key: str

    @property
    def alias(self) -> str:
        """The name of the host key. Unlike a port, it is never used again by another host."""
        return f"dstack-{self.user}"

    def block(self) -> str:
        """Return the lines for the configuration file."""
        return (
            f"Host {self.name}\n"
            f"  HostName {self.hostname}\n"
            f"  Port {self.port}\n"
            f"  User {self.user}\n"
            f"  IdentityFile {_as_word(self.identity_file)}\n"
            "  IdentitiesOnly yes\n"
            f"  HostKeyAlias {self.alias}\n"
            f"  UserKnownHostsFile {_as_word(_known_hosts())}\n"
            "  StrictHostKeyChecking yes\n"
            f"  Ciphers {CIPHERS}\n"
        )


def add(host: Host) -> None:
    """Write a host's entry, so that `ssh <name>` works. Replaces the entry of that name."""
    with locked(_places.private_folder(_places.home() / "ssh") / "lock"):
        _replace_block(host.name, host.block())
        _replace_known_host(host.alias, f"{host.alias} {host.host_key.strip()}\n")
    try:
        _include(_places.user_home() / ".ssh" / "config")
    except OSError as error:
        logger.warning("`ssh %s` will not work: `~/.ssh/config` cannot be changed: %s", host.name, error)


def remove(host: Host) -> None:
    """Remove a host's entry, unless another host has replaced it."""
    with locked(_places.private_folder(_places.home() / "ssh") / "lock"):
        if host.block() in _blocks():
            _replace_block(host.name, "")
        _replace_known_host(host.alias, "")


def keep_only(names: Collection[str]) -> None:
    """Remove all entries but those with these names, such as the entries of a killed process."""
    with locked(_places.private_folder(_places.home() / "ssh") / "lock"):
        for block in _blocks():
            if (name := block.partition("\n")[0].removeprefix("Host ")) not in names:
                _replace_block(name, "")
        left = "".join(_blocks())
        for alias in [line.partition(" ")[0] for line in _text(_known_hosts()).splitlines()]:
            if f"  HostKeyAlias {alias}\n" not in left:
                _replace_known_host(alias, "")


def owner_of(name: str) -> Path | None:
    """Return the user's file that has a host of that name; None without one."""
    if any(name in line.partition("#")[0].split()[1:] for line in _lines(HOSTS_FILE)):
        return HOSTS_FILE
    return _owner_in(_places.user_home() / ".ssh" / "config", name, INCLUDES_MAX)


def _owner_in(path: Path, name: str, depth: int) -> Path | None:
    for line in _lines(path):
        key, *words = line.replace("=", " ", 1).replace('"', " ").split() or [""]
        if key.lower() == "host" and name in words:
            return path
        if key.lower() == "include" and depth and line.rstrip() != INCLUDE:
            included = (one for word in words for one in glob(str(path.parent / Path(word).expanduser())))
            found = (_owner_in(Path(one), name, depth - 1) for one in included)
            if (owner := next(filter(None, found), None)) is not None:
                return owner
    return None


def _lines(path: Path) -> list[str]:
    """Return the lines of a user's file; none if it cannot be read."""
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []


def host_name(run_name: str, replica: int, node: int) -> str:
    """Return a job's name for `ssh`: its run's name, or with `.dstack` at its end if the user has such a host.

    Another user may have chosen the run's name.
    """
    name = run_name if (replica, node) == (0, 0) else f"{run_name}-{replica}-{node}"
    return name if owner_of(name) is None else f"{name}.dstack"


def check_free(name: str) -> None:
    """Check that the user has no host with the name of a run.

    Raises:
        ConfigurationError: a file has such a host, to which `ssh NAME` leads.
    """
    if (owner := owner_of(name)) is not None:
        raise ConfigurationError(
            f"The run cannot be called `{name}`: `{owner}` has a host of that name, to which `ssh {name}` leads",
            hint="Choose another name",
        )


def command(name: str) -> str:
    """Return the `ssh` command for the host of that name.

    OpenSSH uses the home folder in the system's list of users, and ignores `HOME`.
    """
    there = systems.home_of_openssh()
    try:
        is_found = there is not None and _places.user_home().samefile(there)
    except OSError:
        is_found = False
    return f"ssh {name}" if is_found else f"ssh -F ~/.ssh/config {name}"


def _config() -> Path:
    return _places.home() / "ssh" / "config"


def _known_hosts() -> Path:
    return _places.home() / "ssh" / "known_hosts"


def _as_word(path: PurePath) -> str:
    """Return a path in OpenSSH's syntax for all systems: in quotes, with slashes, and with `%` doubled."""
    escaped = path.as_posix().replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _text(path: Path) -> str:
    """Return the content of one of the client's files; a path in it may have bytes that are not text."""
    return os.fsdecode(path.read_bytes()) if path.exists() else ""


def _blocks() -> list[str]:
    """Return the entries in the client's configuration file, each with its lines."""
    blocks: list[str] = []
    for line in _text(_config()).splitlines(keepends=True):
        if line.startswith("Host ") or not blocks:
            blocks.append("")
        blocks[-1] += line
    return blocks


def _replace_block(name: str, block: str) -> None:
    others = [other for other in _blocks() if not other.startswith(f"Host {name}\n")]
    _places.write_whole(_config(), os.fsencode("".join([*others, block])))


def _replace_known_host(alias: str, line: str) -> None:
    lines = _text(_known_hosts()).splitlines(keepends=True)
    others = [other for other in lines if not other.startswith(f"{alias} ")]
    _places.write_whole(_known_hosts(), "".join([*others, line]))


def _include(path: Path) -> None:
    """Put the `Include` line first; further down it would belong to the `Host` above it.

    The file is the user's: the rest of its bytes, its line ends and its mode stay.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    real = Path(os.path.realpath(path))
    content = real.read_bytes() if real.exists() else b""
    first = content.splitlines(keepends=True)[0] if content else b""
    if first.rstrip(b"\r\n") == INCLUDE.encode():
        return
    mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
    end = b"\r\n" if first.endswith(b"\r\n") else b"\n"
    _places.write_whole(real, INCLUDE.encode() + end + content, mode=mode)
