"""The data folder of a server."""

import os
import subprocess
import sys
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


def test_server_by_hand_reports_the_background_server_that_it_replaced(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from dstack.server.ownership import own; "
    code += "own(Path(sys.argv[1]), embedded=True); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as background:
        try:
            assert background.stdout is not None
            background.stdout.readline()  # it owns the folder now
            owner = own(tmp_path, embedded=False)
        finally:
            background.kill()
    os.close(owner.lock_fd)
    assert owner.replaced_pid == background.pid
