"""What makes a plain `ssh <run>` work: one line in `~/.ssh/config`, the rest in our own files in `~/.dstack/ssh`."""

import logging
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from dstack.api import _places

logger = logging.getLogger("dstack.api")

INCLUDE = "Include ~/.dstack/ssh/config"
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr"
"""OpenSSH would take ChaCha20 first, by which a forward is half as fast."""


@dataclass(frozen=True, slots=True)
class Host:
    """One way in, as OpenSSH's client is told of it."""

    name: str
    hostname: str
    port: int
    user: str
    identity_file: Path
    host_key: str

    @property
    def alias(self) -> str:
        """The name under which the host key is known; ports are used again by other hosts, this is not."""
        return f"dstack-{self.user}"

    def block(self) -> str:
        """The lines in the configuration file."""
        return (
            f"Host {self.name}\n"
            f"  HostName {self.hostname}\n"
            f"  Port {self.port}\n"
            f"  User {self.user}\n"
            f'  IdentityFile "{self.identity_file}"\n'
            "  IdentitiesOnly yes\n"
            f"  HostKeyAlias {self.alias}\n"
            f'  UserKnownHostsFile "{_known_hosts()}"\n'
            "  StrictHostKeyChecking yes\n"
            f"  Ciphers {CIPHERS}\n"
        )


def add(host: Host) -> None:
    """Make `ssh <name>` work, replacing what there was of that name."""
    with _places.locked(_places.private_folder(_places.home() / "ssh") / "lock"):
        _replace_block(host.name, host.block())
        _replace_known_host(host.alias, f"{host.alias} {host.host_key.strip()}\n")
    try:
        _include(_places.user_home() / ".ssh" / "config")
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("`ssh %s` will not work: `~/.ssh/config` cannot be changed: %s", host.name, error)


def remove(host: Host) -> None:
    """Forget the host, if it is still the one of its name."""
    with _places.locked(_places.private_folder(_places.home() / "ssh") / "lock"):
        if host.block() in _blocks():
            _replace_block(host.name, "")
        _replace_known_host(host.alias, "")


def command(name: str) -> str:
    """Return the command that leads into the host of that name.

    OpenSSH reads the home folder of the system's list of users, and not the one that `HOME` names.
    """
    try:
        is_found = _places.user_home().samefile(pwd.getpwuid(os.getuid()).pw_dir)
    except (KeyError, OSError):
        is_found = False
    return f"ssh {name}" if is_found else f"ssh -F ~/.ssh/config {name}"


def _config() -> Path:
    return _places.home() / "ssh" / "config"


def _known_hosts() -> Path:
    return _places.home() / "ssh" / "known_hosts"


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def _blocks() -> list[str]:
    blocks: list[str] = []
    for line in _text(_config()).splitlines(keepends=True):
        if line.startswith("Host ") or not blocks:
            blocks.append("")
        blocks[-1] += line
    return blocks


def _replace_block(name: str, block: str) -> None:
    others = [other for other in _blocks() if not other.startswith(f"Host {name}\n")]
    _places.write_whole(_config(), "".join([*others, block]))


def _replace_known_host(alias: str, line: str) -> None:
    lines = _text(_known_hosts()).splitlines(keepends=True)
    others = [other for other in lines if not other.startswith(f"{alias} ")]
    _places.write_whole(_known_hosts(), "".join([*others, line]))


def _include(path: Path) -> None:
    """Put our line first; further down it would belong to whatever `Host` stands above it."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    real = Path(os.path.realpath(path))
    text = _text(real)
    if text.startswith(f"{INCLUDE}\n"):
        return
    mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
    _places.write_whole(real, f"{INCLUDE}\n{text}", mode=mode)
