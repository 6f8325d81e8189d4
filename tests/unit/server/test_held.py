"""Connections that a server keeps for the data plane after the present one."""

import socket

import pytest

from dstack.server.held import HeldConnections


@pytest.fixture
def clients() -> list[socket.socket]:
    return []


def filled(clients: list[socket.socket]) -> HeldConnections:
    """Return what a data plane with the process id 7 has left: three connections, whose clients' ends are noted."""
    held = HeldConnections()
    assert held.meet(7) == []
    for id in (1, 2, 3):
        mine, theirs = socket.socketpair()
        clients.append(theirs)
        held.keep(id, mine, b"request %d" % id)
    return held


def are_open(clients: list[socket.socket]) -> list[bool]:
    """Return for each client whether its connection is open elsewhere; close them."""
    found = []
    for client in clients:
        client.setblocking(False)
        try:
            found.append(client.recv(1) != b"")
        except BlockingIOError:
            found.append(True)
        client.close()
    return found


def test_next_data_plane_gets_what_was_not_released(clients: list[socket.socket]) -> None:
    held = filled(clients)
    held.release((2,))
    left = held.meet(8)
    assert [received for _, received in left] == [b"request 1", b"request 3"]
    assert held.meet(9) == []
    assert are_open(clients) == [True, False, True]
    for sock, _ in left:
        sock.close()


def test_data_plane_that_was_not_lost_keeps_its_requests(clients: list[socket.socket]) -> None:
    assert filled(clients).meet(7) == []
    assert are_open(clients) == [False] * 3
