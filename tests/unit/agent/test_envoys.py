"""The process that forks envoys: it outlives what goes wrong with one wish."""

import errno
import json
import os
import socket
from collections.abc import Iterator

import pytest

from dstack.agent.sshd import envoys


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The line to a process that can fork no envoys."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            monkeypatch.setattr(os, "fork", fail)
            envoys._live(theirs)
        finally:
            os._exit(0)
    theirs.close()
    yield ours
    ours.close()
    os.waitpid(child, 0)


def fail() -> int:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def ask(line: socket.socket, answer_to: socket.socket) -> None:
    with answer_to:
        socket.send_fds(line, [b"{}"], [answer_to.fileno()])


def test_who_asked_and_left_while_no_process_could_be_forked_takes_nothing_from_the_others(
    no_processes: socket.socket,
) -> None:
    left, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.close()
    ask(no_processes, theirs)
    waits, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ask(no_processes, theirs)
    with waits:
        waits.settimeout(30)
        assert json.loads(waits.recv(1000)) == {"error": "Resource temporarily unavailable", "number": errno.EAGAIN}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_server_at_either_loopback_is_reached_by_each_of_their_names(host: str, family: socket.AddressFamily) -> None:
    address = "::1" if family is socket.AF_INET6 else "127.0.0.1"
    server = socket.create_server((address, 0), family=family)
    with server, envoys._connected(host, server.getsockname()[1]) as connected:
        assert connected.getpeername()[0] == address


def test_a_port_at_which_nobody_listens_is_refused_by_both_loopbacks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        envoys._connected("localhost", port)
