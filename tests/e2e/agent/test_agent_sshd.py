"""The way in: a real SSH connection to the server beside the agent."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from dstack.agent.processes import parents
from tests.e2e.agent.agent_client import Agent, Client, J, connected

SERVE = """\
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello from the job")
    connection.close()
"""


@pytest.fixture(scope="module")
def key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


async def serving(client: Client, python: str, **order: Any) -> int:
    """Start a job that answers at a port. Returns the port."""
    await client.start(J, f"exec {python} -c '{SERVE}'", **order)
    await client.line(J, b"\n")
    await client.until(lambda: client.ssh)
    return int(client.log_of(J))


@asynccontextmanager
async def ssh(client: Client, key: asyncssh.SSHKey, user: str = J) -> AsyncIterator[asyncssh.SSHClientConnection]:
    assert client.ssh is not None
    trusted = asyncssh.import_known_hosts(f"[127.0.0.1]:{client.ssh['port']} {client.ssh['host_key']}\n")
    async with asyncssh.connect(
        "127.0.0.1", client.ssh["port"], username=user, client_keys=[key], known_hosts=trusted, config=None
    ) as connection:
        yield connection


async def test_an_authorized_key_reaches_the_ports_of_the_job(agent: Agent, python: str, key: asyncssh.SSHKey) -> None:
    async with connected(agent) as client:
        port = await serving(client, python, authorized_keys=(public(key) + " me@home",))
        async with ssh(client, key) as connection:
            reader, writer = await connection.open_connection("localhost", port)
            assert await reader.read() == b"hello from the job"
            writer.close()


async def test_a_key_authorized_later_comes_in_too(agent: Agent, python: str, key: asyncssh.SSHKey) -> None:
    async with connected(agent) as client:
        await serving(client, python)
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(client, key):
                pass
        assert await client.call("authorize", job_id=J, key=public(key)) is None
        assert await client.call("authorize", job_id=J, key=public(key)) is None
        async with ssh(client, key):
            pass


@pytest.mark.parametrize(
    "text", ["ssh-rsa AAAA", "nonsense", "ssh-ed25519 AAAA\nssh-ed25519 BBBB", 'command="x" ssh-ed25519 A']
)
async def test_what_is_no_ed25519_key_is_refused(agent: Agent, text: str) -> None:
    async with connected(agent) as client:
        await client.start(J, "sleep 1000")
        error = await client.call("authorize", job_id=J, key=text)
    assert error is not None and "ed25519" in error["message"]


@pytest.mark.parametrize("user", ["other", "../jobs/j", "root"])
async def test_a_key_opens_its_own_job_only(agent: Agent, python: str, key: asyncssh.SSHKey, user: str) -> None:
    async with connected(agent) as client:
        await serving(client, python, authorized_keys=(public(key),))
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(client, key, user):
                pass


async def test_other_hosts_are_refused_with_a_reason(agent: Agent, python: str, key: asyncssh.SSHKey) -> None:
    async with connected(agent) as client:
        await serving(client, python, authorized_keys=(public(key),))
        async with ssh(client, key) as connection:
            with pytest.raises(asyncssh.ChannelOpenError, match="are forwarded, not of"):
                await connection.open_connection("192.0.2.1", 80)
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.create_process(subsystem="netconf")


async def test_the_end_of_the_job_closes_the_way_in(agent: Agent, python: str, key: asyncssh.SSHKey) -> None:
    async with connected(agent) as client:
        await serving(client, python, authorized_keys=(public(key),))
        async with ssh(client, key) as connection:
            assert await client.call("stop", job_id=J, grace_s=1) is None
            await client.report(J)
            await connection.wait_closed()
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(client, key):
                pass


async def test_port_and_host_key_outlive_the_agent(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.until(lambda: client.ssh)
        before = {name: client.ssh[name] for name in ("port", "host_key")}  # type: ignore[index]
    agent.kill()
    agent.start()
    async with connected(agent) as client:
        await client.until(lambda: client.ssh)
        assert {name: client.ssh[name] for name in ("port", "host_key")} == before  # type: ignore[index]
    assert (agent.home / "ssh.json").stat().st_mode & 0o777 == 0o600


async def test_a_way_into_jobs_that_cannot_reach_into_them_any_more_is_made_anew(
    agent: Agent, python: str, key: asyncssh.SSHKey
) -> None:
    assert agent.process is not None
    async with connected(agent) as client:
        port = await serving(client, python, authorized_keys=(public(key),))
        (server,) = (pid for pid, parent in parents().items() if parent == agent.process.pid and is_sshd(pid, agent))
        (forks_envoys,) = (pid for pid, parent in parents().items() if parent == server)
        former, client.ssh = client.ssh, None
        os.kill(forks_envoys, signal.SIGKILL)
        await client.until(lambda: client.ssh)
        assert client.ssh == former, "at the same port, with the same key"
        async with ssh(client, key) as connection:
            reader, writer = await connection.open_connection("localhost", port)
            assert await reader.read() == b"hello from the job"
            writer.close()
    assert "The process that enters containers has ended" in (agent.home / "agent.log").read_text()


def is_sshd(pid: int, agent: Agent) -> bool:
    return f"dstack.agent.sshd\0--home\0{agent.home}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_killed_ssh_server_comes_back(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.until(lambda: client.ssh)
        former, client.ssh = client.ssh, None
        killed = await asyncio.create_subprocess_exec("pkill", "-KILL", "-f", f"dstack.agent.sshd --home {agent.home} ")
        assert await killed.wait() == 0
        await client.until(lambda: client.ssh)
    assert client.ssh is not None and former is not None and client.ssh["port"] == former["port"]


@pytest.fixture
def few_descriptors() -> Iterator[tuple[int, int]]:
    """What is started meanwhile may have few files open, but may take more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield 512, before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_an_agent_takes_all_descriptors_that_it_may_have_and_jobs_have_as_many_as_ever(
    few_descriptors: tuple[int, int], agent: Agent, python: str, key: asyncssh.SSHKey
) -> None:
    few, most = few_descriptors
    assert agent.process is not None
    assert resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE) == (most, most)
    async with connected(agent) as client:
        await client.start(J, "ulimit -Sn; ulimit -Hn; sleep 1000", authorized_keys=(public(key),))
        await client.line(J, f"{few}\n{most}\n".encode())
        await client.until(lambda: client.ssh)
        async with ssh(client, key) as connection:
            for term_type in (None, "xterm"):
                said = await connection.run("ulimit -Sn; ulimit -Hn", term_type=term_type)
                assert str(said.stdout).split() == [str(few), str(most)]


@pytest.fixture
def background() -> Iterator[None]:
    """Whatever starts from now on was told to ignore Ctrl-C and hang-ups, as below `nohup`."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    yield
    for number, what in former.items():
        signal.signal(number, what)


async def test_programs_over_ssh_hear_signals_that_the_agent_was_told_to_ignore(
    background: None, agent: Agent, key: asyncssh.SSHKey
) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 1000", authorized_keys=(public(key),))
        await client.line(J, b"up\n")
        await client.until(lambda: client.ssh)
        async with ssh(client, key) as connection:
            ignored = (await connection.run("grep SigIgn /proc/self/status", check=True)).stdout
    assert int(str(ignored).split()[1], 16) & 0b11 == 0
