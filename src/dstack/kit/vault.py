"""Encryption of what is kept: secrets and credentials are on disk only as ciphertext."""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

log = logging.getLogger(__name__)


class WrongKey(Exception):
    """A ciphertext was encrypted with another key, or is damaged."""


class NoKey(Exception):
    """A vault without keys can neither be filled nor opened."""


class Vault:
    """Encrypts with the first of its keys, and decrypts with any (Fernet: AES-128-CBC with HMAC-SHA256).

    Args:
        keys: 32 bytes each, as URL-safe base64. Newest first.

    Examples:
        >>> vault = Vault([new_key()])
        >>> vault.open(vault.seal("hello"))
        'hello'
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys

    @cached_property
    def _fernet(self) -> "MultiFernet":
        from cryptography.fernet import Fernet, MultiFernet  # takes long to import, and is seldom needed

        if not self._keys:
            raise NoKey
        return MultiFernet([Fernet(key) for key in self._keys])

    def seal(self, text: str) -> str:
        """The text as ciphertext.

        Raises:
            NoKey: there is nothing to seal it with.
        """
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """The text behind a ciphertext.

        Raises:
            WrongKey: it was sealed with none of the keys.
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise WrongKey from None


def new_key() -> str:
    """A random key."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def is_key(text: str) -> bool:
    """Whether a text is a key."""
    from cryptography.fernet import Fernet

    try:
        Fernet(text)
    except ValueError:
        return False
    return True


class KeyFile(Vault):
    """A vault whose key is in a file of this user, made when it is first needed.

    A file without a key is moved aside, and a new key is made: older ciphertexts then raise `WrongKey`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(())
        self._path = path
        self._making = threading.Lock()

    @cached_property
    def _fernet(self) -> "MultiFernet":
        from cryptography.fernet import Fernet, MultiFernet

        with self._making:
            key = self._read() or self._made()
        return MultiFernet([Fernet(key)])

    def _read(self) -> str | None:
        try:
            key = self._path.read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
        if is_key(key):
            return key
        aside = self._path.with_name(f"{self._path.name}.damaged")
        self._path.rename(aside)
        log.error("%s held no key and was moved to %s: set the secrets again", self._path, aside)
        return None

    def _made(self) -> str:
        """A new key, or that of another server which was first. The file is there as a whole or not at all."""
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(new_key())
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(draft, self._path)
        finally:
            draft.unlink(missing_ok=True)
        return self._path.read_text().strip()
