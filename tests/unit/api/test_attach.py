"""The way into a job: a real SSH server stands for the agent's, in a thread of the test."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from msgspec import structs

from dstack.api import _attach, _ports
from dstack.api._attach import Wish, open_attachment
from dstack.api._keys import Identity, identity
from dstack.errors import InvalidRequestError, PortUsedError, ResourceNotExistsError, SSHError
from dstack.protocol.views import AccessView
from tests.patience import PATIENCE_S


class Job:
    """A job's SSH server and a service of its own that answers each line in capitals."""

    def __init__(self, key: Identity) -> None:
        self.key = key
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.do(self._start())

    def do(self, work: "asyncio._CoroutineLike[None]") -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _start(self) -> None:
        job = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
                job.connections.append(connection)

            def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
                return dest_host in ("127.0.0.1", "localhost")

        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.service = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self.service.sockets[0].getsockname()[1])
        self.ssh = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=[self.host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(self.key.public_key),
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
        writer.write(b"bye\n")
        writer.close()

    def access(self) -> AccessView:
        host_key = self.host_key.export_public_key().decode()
        port = self.ssh.get_port()
        return AccessView(job_id="j1", hostname="127.0.0.1", ssh_port=port, ssh_user="j1", host_key=host_key)

    def close(self) -> None:
        async def end() -> None:
            self.service.close()
            self.ssh.close()
            for connection in self.connections:
                connection.abort()
            await self.ssh.wait_closed()

        self.do(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def job(home: Path) -> Iterator[Job]:
    one = Job(identity(None))
    yield one
    one.close()


@pytest.fixture
def wish(job: Job) -> Wish:
    return Wish(
        key="r1-0-0",
        host_name="hello",
        wanted={job.port: None},
        bind_address=None,
        is_explicit=False,
        same_machine=True,
        reserved=None,
        identity=job.key,
        grant=job.access,
        await_job=lambda: False,
    )


def talk(port: int, text: bytes = b"hi\n") -> bytes:
    """Everything the service says to `text`, after which we say no more."""
    with socket.create_connection(("127.0.0.1", port), 10) as link:
        link.sendall(text)
        link.shutdown(socket.SHUT_WR)
        link.settimeout(10)
        return b"".join(iter(lambda: link.recv(4096), b""))


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_a_port_leads_into_the_job_and_closing_undoes_all(job: Job, wish: Wish, home: Path) -> None:
    attachment = open_attachment(wish)
    local = attachment.ports[job.port]
    assert local != job.port and talk(local) == b"HI\nbye\n"
    assert "Host hello\n" in (home / ".dstack" / "ssh" / "config").read_text()
    attachment.close()
    attachment.close()
    assert is_free(local)
    assert (home / ".dstack" / "ssh" / "config").read_text() == ""
    assert list((home / ".dstack" / "attached").glob("*.json")) == []


def test_a_held_port_is_the_one_that_leads_there(job: Job, wish: Wish) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reserved = _ports.Reservation({job.port: port})
    attachment = open_attachment(replace(wish, wanted={job.port: port}, reserved=reserved))
    assert attachment.ports == {job.port: port} and talk(port) == b"HI\nbye\n"
    attachment.close()


def test_on_this_machine_the_same_port_needs_no_forward(job: Job, wish: Wish) -> None:
    attachment = open_attachment(replace(wish, wanted={job.port: job.port}))
    assert attachment.ports == {job.port: job.port} and talk(job.port) == b"HI\nbye\n"
    attachment.close()


def test_on_this_machine_any_port_is_not_the_jobs_own(job: Job, wish: Wish) -> None:
    with socket.create_server(("127.0.0.1", 0)) as later:
        port = int(later.getsockname()[1])
    attachment = open_attachment(replace(wish, wanted={port: None}))
    assert is_free(port), "the job may begin to listen only now"
    attachment.close()


def test_configured_port_leads_to_the_one_that_a_replica_really_has(job: Job, wish: Wish) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other_replica:
        configured = int(other_replica.getsockname()[1])

        def grant() -> AccessView:
            return structs.replace(job.access(), ports={configured: job.port})

        for local in (None, job.port):
            attachment = open_attachment(replace(wish, wanted={configured: local}, grant=grant))
            port = attachment.ports[configured]
            assert talk(port) == b"HI\nbye\n"
            assert (port == job.port) == (local is not None), "the job's own needs no forward"
            attachment.close()


def test_openssh_comes_in_by_the_name_of_the_run(job: Job, wish: Wish, home: Path) -> None:
    attachment = open_attachment(wish)
    config = str(home / ".dstack" / "ssh" / "config")
    command = ["ssh", "-F", config, "-o", "BatchMode=yes", "-W", f"127.0.0.1:{job.port}", "hello"]
    assert subprocess.run(command, input=b"hi\n", capture_output=True, timeout=PATIENCE_S).stdout == b"HI\nbye\n"
    attachment.close()


def test_a_broken_tunnel_is_made_again_behind_the_same_port(job: Job, wish: Wish) -> None:
    attachment = open_attachment(wish)
    local = attachment.ports[job.port]
    job.loop.call_soon_threadsafe(job.connections[0].abort)
    while len(job.connections) < 2:
        talk_or_nothing(local)
    assert talk(local) == b"HI\nbye\n"
    attachment.close()


def talk_or_nothing(port: int) -> None:
    with contextlib.suppress(OSError):
        talk(port)


def test_another_process_uses_the_ports_of_the_first(job: Job, wish: Wish) -> None:
    first = open_attachment(wish)
    second = open_attachment(wish)
    assert second.ports == first.ports and len(job.connections) == 1
    second.close()
    assert talk(first.ports[job.port]) == b"HI\nbye\n"
    with pytest.raises(PortUsedError, match=f"is attached by process {os.getpid()} already"):
        open_attachment(replace(wish, is_explicit=True))
    first.close()
    third = open_attachment(wish)
    assert len(job.connections) == 2
    third.close()


def test_leftovers_of_a_killed_process_are_not_in_the_way(job: Job, wish: Wish, home: Path) -> None:
    folder = home / ".dstack" / "attached"
    folder.mkdir(parents=True)
    (folder / "r1-0-0.json").write_text(json.dumps({"pid": 1, "ports": {"1": 2}}))
    attachment = open_attachment(wish)
    assert list(attachment.ports) == [job.port]
    attachment.close()


def test_names_that_a_killed_process_has_left_are_forgotten(job: Job, wish: Wish, home: Path) -> None:
    living = replace(wish, key="r2-0-0", host_name="living")
    other = open_attachment(living)
    folder = home / ".dstack"
    (folder / "attached" / "r3-0-0.json").write_text(json.dumps({"pid": 1, "ports": {}, "host": "killed"}))
    with (folder / "ssh" / "config").open("a") as config:
        config.write("Host killed\n  HostKeyAlias dstack-killed\n")
    attachment = open_attachment(wish)
    hosts = [line for line in (folder / "ssh" / "config").read_text().splitlines() if line.startswith("Host ")]
    assert hosts == ["Host living", "Host hello"]
    assert not (folder / "attached" / "r3-0-0.json").exists()
    attachment.close()
    other.close()


def other_host_key(job: Job) -> AccessView:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    return structs.replace(job.access(), host_key=key)


def other_port(job: Job) -> AccessView:
    return structs.replace(job.access(), ssh_port=1)


@pytest.mark.parametrize(
    ("lie", "says"), [(other_host_key, "Host key is not trusted"), (other_port, "Connect call failed")]
)
def test_a_tunnel_that_cannot_be_opened_tells_why_and_leaves_nothing(
    job: Job, wish: Wish, home: Path, lie: Callable[[Job], AccessView], says: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SSHError, match=says):
        open_attachment(replace(wish, wanted={job.port: port}, grant=lambda: lie(job)))
    assert is_free(port) and list((home / ".dstack" / "attached").glob("*.json")) == []


def test_a_port_in_use_is_told_and_leaves_nothing(job: Job, wish: Wish, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortUsedError, match="is in use"):
        open_attachment(replace(wish, wanted={job.port: taken.getsockname()[1]}))
    assert list((home / ".dstack" / "attached").glob("*.json")) == []


def test_a_run_on_a_server_elsewhere_says_that_there_is_no_way(wish: Wish) -> None:
    with pytest.raises(SSHError, match="the server's own machine"):
        open_attachment(replace(wish, same_machine=False))


def test_a_job_that_is_tried_again_is_reached_behind_the_same_port_and_name(job: Job, wish: Wish, home: Path) -> None:
    """Its next attempt is another user of the SSH server, and begins only when the test says so."""
    began, asked = threading.Event(), threading.Event()

    def grant() -> AccessView:
        if job.connections and not began.is_set():
            raise InvalidRequestError("The job 0/0 of `hello` is pending: nothing runs there")
        return structs.replace(job.access(), **({"ssh_user": "j2", "working_dir": "/new"} if began.is_set() else {}))

    def await_job() -> bool:
        asked.set()
        return began.wait(PATIENCE_S)

    attachment = open_attachment(replace(wish, grant=grant, await_job=await_job))
    job.loop.call_soon_threadsafe(job.connections[0].abort)
    assert asked.wait(PATIENCE_S)
    began.set()
    while len(job.connections) < 2:
        talk_or_nothing(attachment.ports[job.port])
    assert talk(attachment.ports[job.port]) == b"HI\nbye\n"
    config = home / ".dstack" / "ssh" / "config"
    while "User j2" not in config.read_text():
        talk_or_nothing(attachment.ports[job.port])
    assert "User j1" not in config.read_text() and attachment.working_dir == "/new"
    attachment.close()
    assert config.read_text() == ""


def test_a_tunnel_comes_back_although_it_cannot_be_written_down_where_the_job_is(
    job: Job, wish: Wish, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def grant() -> AccessView:
        return structs.replace(job.access(), **({"ssh_user": "j2"} if job.connections else {}))

    attachment = open_attachment(replace(wish, grant=grant))
    config = home / ".dstack" / "ssh" / "config"
    config.rename(config.with_name("before"))
    config.mkdir()
    for number in range(2):
        job.loop.call_soon_threadsafe(job.connections[number].abort)
        while len(job.connections) < number + 2:
            talk_or_nothing(attachment.ports[job.port])
        assert talk(attachment.ports[job.port]) == b"HI\nbye\n"
    assert "Where the job is now could not be written down" in caplog.text
    config.rmdir()
    config.with_name("before").rename(config)
    attachment.close()


def test_the_end_of_the_job_ends_the_tunnel(job: Job, wish: Wish) -> None:
    ended = threading.Event()

    def grant() -> AccessView:
        if job.connections:
            ended.set()
            raise ResourceNotExistsError("The job has ended")
        return job.access()

    attachment = open_attachment(replace(wish, grant=grant))
    job.loop.call_soon_threadsafe(job.connections[0].abort)
    assert ended.wait(PATIENCE_S)
    attachment.close()


def test_leaving_the_interpreter_undoes_all(job: Job, wish: Wish, home: Path) -> None:
    access = job.access()
    code = f"""
from pathlib import Path
from dstack.api._attach import Wish, open_attachment
from dstack.api._keys import identity
from dstack.protocol.views import AccessView
access = AccessView(**{structs.asdict(access)!r})
wanted = {{{job.port}: None}}
wish = Wish("r1-0-0", "hello", wanted, None, False, True, None, identity(None), lambda: access, lambda: False)
open_attachment(wish)
print((Path.home() / ".dstack/ssh/config").read_text())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (0, "") and "Host hello" in done.stdout
    assert (home / ".dstack" / "ssh" / "config").read_text() == ""


def test_a_job_without_ports_has_its_name_at_once_and_a_connection_later(
    job: Job, wish: Wish, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = home / ".dstack" / "ssh" / "config"
    attachment = open_attachment(replace(wish, wanted={}))
    assert "Host hello\n" in config.read_text() and attachment.ports == {}
    attachment.close()
    assert job.connections == [] and "Host hello\n" not in config.read_text()
    assert list((home / ".dstack" / "attached").glob("*.json")) == []

    monkeypatch.setattr(_attach, "UNUSED_DELAY_S", 0.0)
    moved = {"ssh_user": "j2"}
    accesses = iter([{}, moved])
    attachment = open_attachment(
        replace(wish, wanted={}, grant=lambda: structs.replace(job.access(), **next(accesses, moved)))
    )
    while "User j2" not in config.read_text():
        threading.Event().wait(0.01)
    attachment.close()
    assert job.connections != []
