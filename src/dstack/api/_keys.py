"""The SSH key of this user for jobs: the client's own ed25519 key, made at its first use, or a named one."""

import os
from dataclasses import dataclass
from pathlib import Path

from dstack.api import _places
from dstack.errors import ConfigurationError
from dstack.kit.locks import locked

KIND = "ssh-ed25519 "
"""The beginning of the public key."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The file of a private key, and its public key in OpenSSH's format."""

    path: Path
    public_key: str


def identity(path: str | os.PathLike[str] | None) -> Identity:
    """Return the key in `path`; the client's own key for None.

    Raises:
        ConfigurationError: the file cannot be read, needs a passphrase, or is not an ed25519 key.
    """
    if path is not None:
        return _given(_places.expanded(path))
    own = _places.private_folder(_places.home() / "ssh") / "id_ed25519"
    if not own.exists():
        with locked(own.with_name("lock")):
            if not own.exists():
                _make(own)
    return _given(own, is_ours=True)


def _make(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _places.write_whole(path.with_name(f"{path.name}.pub"), f"{public.decode()} dstack\n")
    _places.write_whole(path, private.decode())


def _given(path: Path, *, is_ours: bool = False) -> Identity:
    """Return the key in a file. The client's own key has no passphrase, so only its public key is read."""
    try:
        private = path.read_bytes()
        public_file = path.with_name(f"{path.name}.pub")
        public = public_file.read_text("utf-8") if public_file.exists() else ""
        if not public or (public.startswith(KIND) and not is_ours):
            public = _public_of(private)
    except OSError as error:
        raise ConfigurationError(f"The SSH key `{path}` cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"The SSH key `{path}` cannot be used: {error}",
            hint="Name an ed25519 private key without a passphrase; `ssh-keygen -t ed25519 -N ''` makes one",
        ) from error
    if not public.startswith(KIND):
        raise ConfigurationError(
            f"The SSH key `{path}` is of the kind `{public.split(' ')[0][:40]}`",
            hint="Only ed25519 keys are taken; make one with `ssh-keygen -t ed25519`",
        )
    return Identity(path, " ".join(public.split()[:2]))


def _public_of(private: bytes) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_ssh_private_key(private, password=None)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
