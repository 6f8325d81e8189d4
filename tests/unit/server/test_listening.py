"""The socket at which a server listens, while a data plane of an earlier server has it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.errors import ConfigurationError
from dstack.protocol.proxy import Changes, Listener
from dstack.server.data_plane_process import start
from dstack.server.listening import Place, listen
from dstack.server.settings import Settings
from tests.unit.server.planes import end, send, server_of


def shared(folder: Path, port: int, host: str = "127.0.0.1") -> Settings:
    """Return the settings of one of several servers."""
    return Settings(folder, host, port, database_url="postgresql://somewhere/db")


def close(place: Place) -> None:
    """Let a server end."""
    place.listener.close()
    assert place.lock_fd is not None
    os.close(place.lock_fd)


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Place]:
    """A server whose data plane listens too."""
    place = listen(shared(tmp_path, 0), None)
    assert start(place.folder)
    with server_of(place.folder) as control:
        send(control, Listener(), place.listener)
        send(control, Changes(version=9, since=8))
        assert b'"type":"hello"' in control.recv(4096), "the answer: it has read both"
    yield place
    end(place.folder)


def test_only_the_server_that_has_locked_the_folder_gets_the_socket_of_the_data_plane(
    first: Place, tmp_path: Path
) -> None:
    port = first.listener.getsockname()[1]
    with pytest.raises(ConfigurationError, match=f"cannot listen at `127.0.0.1:{port}`: .*in use"):
        listen(shared(tmp_path, port), None)
    with pytest.raises(ConfigurationError, match=f"Another server has the data plane .* the port {port} too"):
        listen(shared(tmp_path, port, "127.0.0.2"), None)
    inode = os.fstat(first.listener.fileno()).st_ino
    close(first)
    following = listen(shared(tmp_path, port), None)
    assert os.fstat(following.listener.fileno()).st_ino == inode
    close(following)


def test_data_plane_releases_its_address_for_another_one_with_the_same_port(first: Place, tmp_path: Path) -> None:
    port = first.listener.getsockname()[1]
    close(first)
    following = listen(shared(tmp_path, port, "0.0.0.0"), None)
    assert following.listener.getsockname() == ("0.0.0.0", port)
    close(following)
