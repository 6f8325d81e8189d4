"""The SFTP server against OpenSSH's own client, and against whatever a broken one may send."""

import ctypes
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.agent.sshd.opening import RegularFiles
from dstack.agent.sshd.sftp import PACKET_BYTES_MAX, SftpServer
from tests.machine import missing
from tests.making import few_examples
from tests.patience import PATIENCE_S

SERVE = (
    "from dstack.agent.sshd.opening import RegularFiles; from dstack.agent.sshd.sftp import SftpServer; "
    "SftpServer(0, 1, RegularFiles()).serve()"
)
IN_OPEN = 0x20


def sftp(folder: Path, *commands: str) -> "subprocess.CompletedProcess[str]":
    """OpenSSH's `sftp` with our server as its other end."""
    program = folder / ".serve"
    program.write_text(f"#!/bin/sh\ncd {folder}\nexec {sys.executable} -c '{SERVE}'\n")
    program.chmod(0o755)
    if shutil.which("sftp") is None:
        missing("sftp is not installed: `apt-get install openssh-client`")
    return subprocess.run(
        ["sftp", "-q", "-b", "-", "-D", str(program)],
        input="\n".join(commands) + "\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_files_go_there_and_come_back_with_their_modes_and_times(tmp_path: Path) -> None:
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir(), near.mkdir()
    content = os.urandom(3_000_000)
    (near / "tree/inner").mkdir(parents=True)
    (near / "tree/inner/data").write_bytes(content)
    (near / "tree/run").write_text("#!/bin/sh\n")
    (near / "tree/run").chmod(0o750)
    os.utime(near / "tree/run", (1_000_000_000, 1_100_000_000))
    result = sftp(far, f"put -p -r {near}/tree", f"get -p -r tree {near}/back")
    assert result.returncode == 0, result.stderr
    assert (near / "back/inner/data").read_bytes() == content
    status = (near / "back/run").stat()
    assert (stat.S_IMODE(status.st_mode), int(status.st_mtime)) == (0o750, 1_100_000_000)


def test_all_that_the_client_can_ask_for_is_done(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one\n")
    result = sftp(
        tmp_path,
        "pwd",
        "mkdir sub",
        "rename one sub/two",
        "ln -s two sub/link",
        "ln sub/two sub/hard",
        "chmod 600 sub/two",
        "ls -l sub",
        "df",
        "rm sub/link",
        "-rm sub/none",
        "-rmdir sub",
        "-get none",
        "rm sub/two",
        "rm sub/hard",
        "rmdir sub",
    )
    assert result.returncode == 0, result.stderr
    assert str(tmp_path) in result.stdout and "-rw-------" in result.stdout and "link" in result.stdout
    assert result.stderr.count("No such file or directory") == 1 and "not found" in result.stderr
    assert os.listdir(tmp_path) == [".serve"]


def test_a_rename_does_not_lose_a_file_that_is_there(tmp_path: Path) -> None:
    server, client = _served(tmp_path)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    _send(client, 18, _text(b"a") + _text(b"b"))
    assert _receive(client)[0] == 101
    client.close()
    server.join(PATIENCE_S)
    assert (tmp_path / "b").read_text() == "b"


READ, WRITE, CREATE, EXCLUSIVE = 1, 2, 8, 32


@pytest.fixture(params=["pipe", "device", "link to a device"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is no regular file, named `device`."""
    made = tmp_path / ("device" if request.param != "link to a device" else "elsewhere")
    if request.param == "pipe":
        os.mkfifo(made)
    else:
        try:
            os.mknod(made, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root may make devices")
    if request.param == "link to a device":
        (tmp_path / "device").symlink_to(made)
    return made


@pytest.mark.parametrize("wish", [READ, WRITE, READ | WRITE | CREATE, WRITE | CREATE | EXCLUSIVE])
def test_what_is_no_regular_file_is_not_even_opened(tmp_path: Path, device: Path, wish: int) -> None:
    library = ctypes.CDLL(None)
    opens = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    library.inotify_add_watch(opens, os.fsencode(device), IN_OPEN)
    server, client = _served(tmp_path)
    _send(client, 3, _text(b"device") + struct.pack(">II", wish, 0))
    assert _receive(client)[0] == 101
    client.close()
    server.join(PATIENCE_S)
    with open(opens, "rb", buffering=0) as told:
        assert told.read() is None, "nothing was opened"


def test_a_link_to_nowhere_is_where_a_file_is_made_unless_it_had_to_be_a_new_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    server, client = _served(tmp_path)
    for wish, answer in (
        (WRITE | CREATE | EXCLUSIVE, 101),
        (WRITE | CREATE, 102),
        (READ, 102),
        (READ | EXCLUSIVE, 102),
    ):
        _send(client, 3, _text(b"link") + struct.pack(">III", wish, 4, 0o640))
        assert _receive(client)[0] == answer
    client.close()
    server.join(PATIENCE_S)
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o640


def _served(folder: Path) -> tuple[threading.Thread, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    os.chdir(folder)

    def serve_one() -> None:
        SftpServer(theirs.fileno(), theirs.fileno(), RegularFiles()).serve()
        theirs.close()

    serve = threading.Thread(target=serve_one)
    serve.start()
    ours.sendall(struct.pack(">IBI", 5, 1, 3))
    assert _receive(ours)[0] == 2
    return serve, ours


def _send(client: socket.socket, kind: int, body: bytes) -> None:
    client.sendall(struct.pack(">IBI", len(body) + 5, kind, 7) + body)


def _receive(client: socket.socket) -> bytes:
    (size,) = struct.unpack(">I", client.recv(4, socket.MSG_WAITALL))
    return client.recv(size, socket.MSG_WAITALL)


def _text(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


@few_examples()
@given(
    st.integers(3, 22) | st.just(200),
    st.binary(max_size=60).filter(lambda body: b"/" not in body and b".." not in body),
)
def test_whatever_comes_is_answered(tmp_path: Path, kind: int, body: bytes) -> None:
    server, client = _served(tmp_path)
    _send(client, kind, body)
    assert _receive(client)[1:5] == struct.pack(">I", 7)
    client.close()
    server.join(PATIENCE_S)
    assert not server.is_alive()


@pytest.mark.parametrize("size", [0, PACKET_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_packet_without_measure_ends_it(tmp_path: Path, size: int) -> None:
    server, client = _served(tmp_path)
    client.sendall(struct.pack(">I", size))
    assert client.recv(1) == b""
    client.close()
    server.join(PATIENCE_S)
