"""Local ports, with real sockets."""

import os
import socket

import pytest

from dstack.api import _ports
from dstack.errors import PortUsedError
from tests.patience import PATIENCE_S


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_another_local_port_is_held_until_it_is_released() -> None:
    port = free_port()
    reservation = _ports.Reservation({80: port})
    assert not is_free(port)
    reservation.release()
    assert is_free(port)


def test_a_reservation_that_nobody_wants_any_more_holds_nothing() -> None:
    port = free_port()
    reservation = _ports.Reservation({80: port})
    del reservation
    assert is_free(port)


def test_the_same_local_port_is_looked_at_and_left_to_the_job() -> None:
    port = free_port()
    reservation = _ports.Reservation({port: port})
    assert is_free(port)
    reservation.release()


@pytest.mark.parametrize("container_port", [80, None])
def test_a_port_in_use_is_told_with_a_way_out_and_nothing_stays_held(container_port: int | None) -> None:
    other = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUsedError) as caught:
            _ports.Reservation({7: other, container_port or port: port})
    assert caught.value.message == f"The local port {port} is in use on `127.0.0.1`"
    assert f"`*:{container_port or port}`" in str(caught.value.hint)
    assert is_free(other)


def test_any_port_is_the_next_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        bound = _ports.listen_on("127.0.0.1", [(port, None)], _ports.Reservation({port: None}))
        assert port < bound[port].getsockname()[1] <= port + _ports.NEXT_PORTS_TRIED
        bound[port].close()


def test_any_port_is_not_one_that_somebody_else_is_going_to_need() -> None:
    port = free_port()
    bound = _ports.listen_on("127.0.0.1", [(port, None)], None, taken=[port, port + 1])
    assert bound[port].getsockname()[1] > port + 1
    bound[port].close()


def test_what_is_held_is_handed_over() -> None:
    port = free_port()
    held = _ports.Reservation({80: port})
    bound = _ports.listen_on("127.0.0.1", [(80, port)], held)
    held.release()
    assert bound[80].getsockname() == ("127.0.0.1", port)
    bound[80].close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port")
def test_a_privileged_port_says_that_this_user_may_not() -> None:
    with pytest.raises(PortUsedError, match="may not be used by this user"):
        _ports.Reservation({80: 80})


def test_a_refused_port_says_that_this_user_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)  # root runs these tests, and may bind everything
    with pytest.raises(PortUsedError, match="The local port 80 may not be used by this user") as caught:
        _ports.Reservation({80: 80})
    assert "`8080:80`" in str(caught.value.hint)


@pytest.mark.parametrize("address", ["::1", "[::1]"])
def test_loopback_of_ipv6_is_listened_at(address: str) -> None:
    bound = _ports.listen_on(_ports.address_of(address), [(80, None)], None)
    with socket.create_connection(("::1", bound[80].getsockname()[1]), timeout=PATIENCE_S):
        pass
    bound[80].close()


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", f"{'x' * 70}.example"])
def test_address_that_is_not_this_machines_is_told_at_once(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    bind_alone = _ports.bind_alone

    def counted(*where: object) -> socket.socket:
        tried.append(where)
        return bind_alone(*where)  # type: ignore[arg-type]

    monkeypatch.setattr(_ports, "bind_alone", counted)
    with pytest.raises(PortUsedError, match=r"cannot be used on `") as refused:
        _ports.listen_on(host, [(8000, None)], None)
    assert refused.value.hint == "Listen at an address of this machine, such as `127.0.0.1` or `::1`"
    assert len(tried) == 1
