"""The process of a data plane, as its server starts it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from dstack.kit.locks import is_locked
from dstack.protocol.proxy import LOCK
from dstack.server.data_plane_process import control_path, start
from tests.e2e.home import wait_for
from tests.patience import PATIENCE_S


def test_data_plane_is_reached_in_a_folder_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "proxy"
    assert start(folder)
    try:
        assert not start(folder), "one lives there already"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.connect(str(control_path(folder)))
            assert b'"type":"hello"' in server.recv(4096)
    finally:
        os.kill(int((folder / LOCK).read_text()), signal.SIGTERM)
    wait_for("the end of the data plane", lambda: not is_locked(folder / LOCK))


def test_data_plane_that_fails_ends_with_the_reason_in_its_log(tmp_path: Path) -> None:
    reader, ready = os.pipe()
    os.close(reader)  # its server has ended meanwhile
    command = [sys.executable, "-m", "dstack.proxy", str(tmp_path), str(tmp_path / "control.sock"), str(ready)]
    failed = subprocess.run(command, pass_fds=(ready,), capture_output=True, text=True, timeout=PATIENCE_S)
    os.close(ready)
    assert failed.returncode == 1
    assert "The data plane has failed" in failed.stderr
    assert "BrokenPipeError" in failed.stderr
    assert not is_locked(tmp_path / LOCK)
