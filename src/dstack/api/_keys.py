"""The SSH key that lets this user into their jobs: ed25519, made at first use, or one that the user names."""

import os
from dataclasses import dataclass
from pathlib import Path

from dstack.api import _places
from dstack.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key's file, and its public key as OpenSSH writes it."""

    path: Path
    public_key: str


def identity(path: str | os.PathLike[str] | None) -> Identity:
    """The key in `path`, or the client's own.

    Raises:
        ConfigurationError: the file cannot be read, needs a passphrase, or is not an ed25519 key.
    """
    if path is not None:
        return _given(Path(path).expanduser())
    own = _places.private_folder(_places.home() / "ssh") / "id_ed25519"
    if not own.exists():
        with _places.locked(own.with_name("lock")):
            if not own.exists():
                _make(own)
    return _given(own)


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


def _given(path: Path) -> Identity:
    try:
        public_file = path.with_name(f"{path.name}.pub")
        public = public_file.read_text("utf-8") if public_file.exists() else _public_of(path.read_bytes())
        os.stat(path)
    except OSError as error:
        raise ConfigurationError(f"The SSH key `{path}` cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"The SSH key `{path}` cannot be used: {error}", hint="Name an ed25519 private key without a passphrase"
        ) from error
    if not public.startswith("ssh-ed25519 "):
        raise ConfigurationError(
            f"The SSH key `{path}` is of the kind `{public.split(' ')[0][:40]}`",
            hint="Only ed25519 keys are taken; make one with `ssh-keygen -t ed25519`",
        )
    return Identity(path, " ".join(public.split()[:2]))


def _public_of(private: bytes) -> str:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_ssh_private_key(private, password=None)
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
