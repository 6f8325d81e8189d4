"""The data folder of a server."""

import os
from pathlib import Path

import pytest

from dstack.server.ownership import own


def test_a_servers_folder_is_private_and_so_is_the_dstack_folder_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    dstack = tmp_path / ".dstack"
    dstack.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        owner = own(dstack / "server", embedded=False)
        owner.announce("http://127.0.0.1:1", "token", embedded=False, version="1")
    finally:
        os.umask(before)
    os.close(owner.lock_fd)
    assert [path.stat().st_mode & 0o777 for path in (dstack, dstack / "server")] == [0o700, 0o700]
    assert [path.stat().st_mode & 0o077 for path in (dstack / "server").iterdir()] == [0, 0]
