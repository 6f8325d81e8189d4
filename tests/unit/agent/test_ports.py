"""Ports of replicas: which are given, which are free, and which the kernel lists."""

import os
import socket
from pathlib import Path

import pytest

from dstack.agent.serving.listening import leads_to, ports_in, ports_of, table_of, user_of
from dstack.agent.serving.ports import FIRST, LAST, choose_port, is_free, last_port
from dstack.errors import HostTrouble


def test_first_replica_gets_the_configured_port_and_others_free_ones() -> None:
    assert choose_port("a", 8000, {9000}, LAST, lambda port: True) == 8000
    assert choose_port("a", 8000, set(), LAST, lambda port: port != 8000) in range(FIRST, LAST + 1)
    given = set[int]()
    for number in range(100):
        port = choose_port(f"job-{number}", 8000, {8000, *given}, FIRST + 99, lambda port: True)
        assert port not in given
        given.add(port)
    assert given == set(range(FIRST, FIRST + 100))
    with pytest.raises(HostTrouble, match="No port from 20000 to 20099 is free"):
        choose_port("one-more", 8000, {8000, *given}, FIRST + 99, lambda port: True)


def test_port_is_not_given_again_at_once() -> None:
    given = {choose_port(f"job-{number}", 8000, {8000}, LAST, lambda port: True) for number in range(50)}
    assert len(given) > 40


@pytest.mark.parametrize(
    ("text", "last"),
    [("32768\t60999\n", LAST), ("25000 60000", 24999), ("1024 65535", LAST), ("40000 50000", LAST), ("", LAST)],
)
def test_ports_that_the_system_gives_away_itself_are_left_to_it(tmp_path: Path, text: str, last: int) -> None:
    (tmp_path / "range").write_text(text)
    assert last_port(tmp_path / "range") == last
    assert last_port(tmp_path / "missing") == LAST


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_port_at_which_a_server_listens_at_any_address_is_in_use(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        assert port in ports_in(table_of()) and port in ports_of([os.getpid()])
        assert port not in ports_of([os.getppid()])
        assert f"the process {os.getpid()} (`" in str(user_of(port))
        with socket.create_connection((address, port)) as connected:
            assert leads_to(connected, table_of(os.getpid()))
            assert not leads_to(connected, [])
    assert user_of(port) is None and is_free(port)
