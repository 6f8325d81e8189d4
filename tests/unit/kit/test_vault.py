"""A key file that a power cut has damaged costs what was sealed with it, and nothing else."""

import os
from pathlib import Path

import pytest

from dstack.kit.vault import KeyFile, WrongKey


def test_key_is_made_once_and_belongs_to_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "encryption.key"
    sealed = KeyFile(path).seal("hello")
    assert KeyFile(path).open(sealed) == "hello"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["encryption.key"]


@pytest.mark.parametrize("damaged", [b"", b"half a k", b"\xff\xfe garbage"])
def test_damaged_key_is_set_aside_and_another_one_made(
    tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "encryption.key"
    before = KeyFile(path).seal("hello")
    path.write_bytes(damaged)
    vault = KeyFile(path)
    assert vault.open(vault.seal("again")) == "again"
    with pytest.raises(WrongKey):
        vault.open(before)
    assert (tmp_path / "encryption.key.damaged").read_bytes() == damaged
    assert "set the secrets again" in caplog.text
