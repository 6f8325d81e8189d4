"""Starting the embedded server, with a small stand-in for it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack.agent.processes import MARKER, marker_of
from dstack.api import _embedded
from dstack.api._embedded import EmbeddedServer
from dstack.api._servers import Address
from dstack.api._transport import Transport
from dstack.errors import ServerUnreachableError
from dstack.kit.locks import take
from dstack.protocol import routes
from dstack.server.ownership import write_private

STAND_IN = """
import fcntl, json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
folder, ready = sys.argv[sys.argv.index("--data-dir") + 1], int(sys.argv[sys.argv.index("--ready-fd") + 1])
assert "--embedded" in sys.argv and os.getsid(0) == os.getpid()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"version": "9", "embedded": true}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
where = {"url": f"http://127.0.0.1:{server.server_port}", "token": "t"}
lock = open(f"{folder}/server.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
json.dump({"pid": os.getpid(), "embedded": True}, lock)
lock.flush()
with open(f"{folder}/starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
with open(f"{folder}/server.json.new", "w") as file:
    json.dump({**where, "pid": os.getpid()}, file)
os.rename(f"{folder}/server.json.new", f"{folder}/server.json")
os.write(ready, json.dumps(where).encode() + b"\\n")
os.close(ready)
server.serve_forever()
"""


def command(tmp_path: Path, code: str) -> tuple[str, ...]:
    script = tmp_path / "stand_in.py"
    script.write_text(textwrap.dedent(code))
    return (sys.executable, str(script))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    one = tmp_path / "server"
    yield one
    for pid in pids(one):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pids(folder: Path) -> list[int]:
    starts = folder / "starts"
    return [int(line) for line in starts.read_text().split()] if starts.exists() else []


def test_two_commands_at_once_make_one_server(tmp_path: Path, folder: Path) -> None:
    start = command(tmp_path, STAND_IN)
    found: list[str] = []
    clients = [EmbeddedServer(folder, start) for _ in range(6)]
    threads = [threading.Thread(target=lambda one=one: found.append(one.find().url)) for one in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert len(pids(folder)) == 1


def test_the_server_outlives_the_process_that_started_it(tmp_path: Path, folder: Path) -> None:
    start = f"EmbeddedServer(Path({str(folder)!r}), {command(tmp_path, STAND_IN)!r})"
    code = f"from dstack.api._embedded import *; print({start}.find().url)"
    url = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert EmbeddedServer(folder, ("false",)).find().url == url


def test_a_server_that_is_started_in_a_job_is_no_part_of_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARKER, "0-job")
    monkeypatch.setenv("ITS_OWN", "kept")
    EmbeddedServer(folder, command(tmp_path, STAND_IN)).find()
    (pid,) = pids(folder)
    assert marker_of(pid) is None
    assert b"ITS_OWN=kept" in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_server_that_went_away_is_started_again_by_the_next_request(tmp_path: Path, folder: Path) -> None:
    transport = Transport(EmbeddedServer(folder, command(tmp_path, STAND_IN)))
    assert transport.call(routes.HEALTH).embedded
    (first,) = pids(folder)
    end = os.pidfd_open(first)
    os.kill(first, signal.SIGKILL)
    assert select.select([end], [], [], 10)[0]
    os.close(end)
    assert transport.call(routes.HEALTH).embedded
    assert len(pids(folder)) == 2
    transport.close()


class OtherServer:
    """A server that was started by hand: it has the folder, and begins to listen when told to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        lock = take(folder / "server.lock")
        assert lock is not None
        self._lock = lock
        os.pwrite(lock, json.dumps({"pid": os.getpid(), "embedded": False}).encode(), 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def announce(self, pid: int | None = None) -> None:
        about = {"url": self.url, "token": "t", "pid": os.getpid() if pid is None else pid}
        write_private(self._folder / "server.json", json.dumps(about).encode())

    def close(self) -> None:
        self._listener.close()
        os.close(self._lock)


@pytest.fixture
def other(folder: Path) -> Iterator[OtherServer]:
    server = OtherServer(folder)
    yield server
    with contextlib.suppress(OSError):
        server.close()


def find_meanwhile(server: EmbeddedServer, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Address:
    """Return the address that is found by a search which begins before `act`."""
    waits = threading.Event()

    def pause() -> None:
        if not waits.is_set():
            act()
        waits.set()

    monkeypatch.setattr(server, "_pause", pause)
    address = server.find()
    assert waits.is_set(), "it had to wait"
    return address


def test_server_that_is_starting_is_waited_for(
    folder: Path, other: OtherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = find_meanwhile(EmbeddedServer(folder, ("false",)), other.announce, monkeypatch)
    assert address == Address(other.url, "t")


def test_address_of_the_former_server_is_not_that_of_the_one_that_starts(
    folder: Path, other: OtherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.announce(pid=1)
    find_meanwhile(EmbeddedServer(folder, ("false",)), other.announce, monkeypatch)


def test_server_that_ends_is_waited_for_and_replaced(
    tmp_path: Path, folder: Path, other: OtherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = find_meanwhile(EmbeddedServer(folder, command(tmp_path, STAND_IN)), other.close, monkeypatch)
    assert address.url != other.url and len(pids(folder)) == 1


def test_server_that_was_faster_than_the_embedded_one_is_used(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(folder, ("false",))
    others: list[OtherServer] = []

    def refuse() -> Address:
        others.append(OtherServer(folder))
        raise ServerUnreachableError("A server already serves the data folder")

    monkeypatch.setattr(server, "_start", refuse)
    address = find_meanwhile(server, lambda: others[0].announce(), monkeypatch)
    assert address == Address(others[0].url, "t")
    others[0].close()


def test_server_that_never_answers_is_reported_with_a_way_out(
    folder: Path, other: OtherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_embedded, "START_TIMEOUT_S", 0.1)
    with pytest.raises(ServerUnreachableError) as caught:
        EmbeddedServer(folder, ("false",)).find()
    assert f"A server (process {os.getpid()}) has the data folder `{folder}`" in caught.value.message
    assert "`dstack server stop`" in (caught.value.hint or "")


def test_why_it_does_not_start_is_told(tmp_path: Path, folder: Path) -> None:
    code = """
    import os, sys
    os.write(int(sys.argv[-1]), b'{"error": "The disk is full", "hint": "Free some"}\\n')
    with open("refused", "w") as file:
        file.write(str(os.getpid()))
    """
    with pytest.raises(ServerUnreachableError) as caught:
        EmbeddedServer(folder, command(tmp_path, code)).find()
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "refused").read_text()), 0)
    assert str(caught.value) == "The embedded server did not start: The disk is full\nhint: Free some"


def test_a_server_that_dies_at_its_start_shows_the_end_of_its_log(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ServerUnreachableError, match="ValueError: no such thing") as caught:
        EmbeddedServer(folder, command(tmp_path, "raise ValueError('no such thing')")).find()
    assert str(folder / "server.log") in caught.value.message
    assert (folder.stat().st_mode & 0o777, (folder / "server.log").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("state", ["", "{}", '{"url": "http://127.0.0.1:1", "token": "t", "pid": 999999999}', "[1]"])
def test_a_stale_or_damaged_note_of_where_it_is_does_no_harm(tmp_path: Path, folder: Path, state: str) -> None:
    folder.mkdir()
    (folder / "server.json").write_text(state)
    assert EmbeddedServer(folder, command(tmp_path, STAND_IN)).find().token == "t"


def test_note_of_a_server_that_is_dead_leads_to_no_other_program(tmp_path: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "server.lock").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        stale = {"url": f"http://127.0.0.1:{other.getsockname()[1]}", "token": "stale", "pid": os.getpid()}
        (folder / "server.json").write_text(json.dumps(stale))
        assert EmbeddedServer(folder, command(tmp_path, STAND_IN)).find().token == "t"
