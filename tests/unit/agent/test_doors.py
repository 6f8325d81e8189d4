"""The SSH server in this process: who only connects shuts out nobody who logs in."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest

from dstack.agent.paths import Home
from dstack.agent.sshd import server
from dstack.agent.sshd.server import GUESTS_MAX, STRANGERS_MAX, Doors

PATIENCE_S = 60.0
J = "0-job"
KEY = asyncssh.generate_private_key("ssh-ed25519")
Half = list[tuple[StreamReader, StreamWriter]]


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """Of an SSH server that lets one key into one job."""
    home = Home(tmp_path)
    folder = home.job(J)
    folder.root.mkdir(parents=True)
    folder.authorized_keys.write_bytes(KEY.export_public_key())
    doors = Doors(home, cast(Any, None))  # a login enters no container
    acceptor = await server._listen(doors, asyncssh.generate_private_key("ssh-ed25519"), 0)
    yield acceptor.get_port()
    acceptor.close()
    doors.shut_all()


def login(port: int) -> Any:  # asyncssh's context manager
    return asyncssh.connect("127.0.0.1", port, username=J, client_keys=[KEY], known_hosts=None, config=None)


async def half_open(port: int, count: int) -> Half:
    """Connections that never say who they are; the server has greeted each."""
    made: Half = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        made.append((reader, writer))
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await made[-1][0].readuntil(b"\n")
    return made


async def ended(reader: StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


async def test_half_open_connections_shut_no_login_out(port: int) -> None:
    strangers = await half_open(port, 260)
    async with asyncio.timeout(PATIENCE_S):
        async with login(port):
            pass
        await asyncio.gather(*(ended(reader) for reader, _ in strangers[: 260 - STRANGERS_MAX]))
    for _, writer in strangers:
        writer.close()


async def test_guests_are_not_sent_away_for_strangers_and_have_a_number_themselves(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GUESTS_MAX", 2)
    assert GUESTS_MAX > STRANGERS_MAX
    async with asyncio.timeout(PATIENCE_S), login(port) as first:
        async with login(port) as second:
            with pytest.raises((asyncssh.Error, OSError)):
                await login(port)
            assert not first.is_closed() and not second.is_closed()
            second.close()
        await second.wait_closed()
        strangers = await half_open(port, STRANGERS_MAX + 10)
        assert not first.is_closed()
    for _, writer in strangers:
        writer.close()
