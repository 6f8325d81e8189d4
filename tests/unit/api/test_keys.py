"""The key that lets a user into their jobs."""

import subprocess
from pathlib import Path

import pytest

from dstack.api._keys import identity
from dstack.errors import ConfigurationError


def test_the_own_key_is_made_once_and_is_private(home: Path) -> None:
    first = identity(None)
    assert first.path == home / ".dstack" / "ssh" / "id_ed25519"
    assert first.public_key.startswith("ssh-ed25519 AAAA")
    assert identity(None) == first
    assert [path.stat().st_mode & 0o777 for path in (first.path, first.path.parent)] == [0o600, 0o700]


@pytest.mark.parametrize("has_public_file", [True, False])
def test_a_given_key_is_used(tmp_path: Path, has_public_file: bool) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    public = path.with_suffix(".pub")
    expected = " ".join(public.read_text().split()[:2])
    if not has_public_file:
        public.unlink()
    assert identity(path).public_key == expected


@pytest.mark.parametrize("has_public_file", [True, False])
@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (("-t", "ecdsa", "-N", ""), "is of the kind `ecdsa-sha2-nistp256`", "Only ed25519 keys are taken"),
        (("-t", "ed25519", "-N", "a long secret"), "cannot be used", "an ed25519 private key without a passphrase"),
    ],
)
def test_a_key_that_will_not_do_is_told(
    tmp_path: Path, arguments: tuple[str, ...], says: str, hint: str, has_public_file: bool
) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", *arguments, "-f", str(path)], check=True)
    if not has_public_file:
        path.with_suffix(".pub").unlink()
    with pytest.raises(ConfigurationError, match=says) as caught:
        identity(path)
    assert hint in str(caught.value.hint)


def test_a_missing_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        identity(tmp_path / "none")
