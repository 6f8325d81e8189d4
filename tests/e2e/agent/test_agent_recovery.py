"""What outlives the agent, the supervisor and the server."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.agent.paths import Home, is_agent_alive, socket_path
from dstack.agent.processes import MARKER, marked, marker_of
from dstack.hosts.local import LocalConnector
from dstack.protocol.agent import to_json
from dstack.protocol.frames import read_frame, write_frame
from tests.e2e.agent.agent_client import PATIENCE_S, Agent, J, connected, order_for, sessions
from tests.e2e.home import wait_for

COUNTING = "for i in $(seq 1 300); do echo line $i; sleep 0.01; done; exit 9"
COUNTED = b"".join(b"line %d\n" % number for number in range(1, 301))


def wait_for_the_supervisor(agent: Agent, job_id: str) -> None:
    """Until it has ended."""
    with open(Home(agent.home).job(job_id).lock) as file:
        fcntl.flock(file, fcntl.LOCK_SH)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_job_outlives_its_agent_and_the_next_one_tells_all(agent: Agent, how: signal.Signals) -> None:
    async with connected(agent) as client:
        await client.start(J, COUNTING)
        await client.line(J, b"line 20\n")
        agent.kill(how)
        await client.until(lambda: client.closed)
    assert not is_agent_alive(agent.home)
    agent.start()
    async with connected(agent, logs=client.logs) as again:
        assert again.reports[J].state == "running"
        assert again.reports[J].started_at == client.reports[J].started_at
        again.follow(J)
        report = await again.logged(J)
    assert (report.end, report.exit_code) == ("exited", 9)
    assert again.log_of(J) == COUNTED


async def test_an_agent_that_is_started_in_a_job_is_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARKER, J)
    home = tmp_path / "inner"
    home.mkdir()
    _, writer = await LocalConnector(home).connect()
    writer.close()
    pid = int(Home(home).lock.read_text())
    try:
        assert marker_of(pid) is None
    finally:
        os.kill(pid, signal.SIGTERM)
    await asyncio.to_thread(wait_for, "its end", lambda: not is_agent_alive(home))


async def test_a_job_that_ended_while_no_agent_lived_is_told_by_the_next(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 0.3; echo down; exit 6")
        await client.line(J, b"up\n")
        agent.kill()
    await asyncio.to_thread(wait_for_the_supervisor, agent, J)
    agent.start()
    async with connected(agent, logs=client.logs) as again:
        assert (again.reports[J].end, again.reports[J].exit_code) == ("exited", 6)
        again.follow(J)
        await again.logged(J)
    assert again.log_of(J) == b"up\ndown\n"


async def test_a_stop_reaches_a_job_of_an_earlier_agent(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 1000")
        await client.line(J, b"up")
        agent.kill()
    agent.start()
    async with connected(agent) as again:
        assert await again.call("stop", job_id=J, grace_s=5) is None
        assert (await again.report(J)).end == "stopped"
    assert not marked(J)


@pytest.mark.parametrize("agent_lives", [True, False])
async def test_nothing_survives_a_killed_supervisor(agent: Agent, agent_lives: bool) -> None:
    async with connected(agent) as client:
        await client.start(J, "(setsid sh -c 'trap \"\" TERM; sleep 1000' &); echo up; sleep 1000")
        await client.line(J, b"up")
        if not agent_lives:
            agent.kill()
        os.kill(agent.supervisor(J), signal.SIGKILL)
    if not agent_lives:
        agent.start()
    async with connected(agent) as again:
        report = await again.report(J)
    assert (report.end, report.exit_code) == ("supervisor_lost", None)
    assert not marked(J)


async def test_an_order_that_was_accepted_starts_under_the_next_agent(agent: Agent) -> None:
    async with connected(agent) as client:
        # The blob is never answered: the job stays in preparation.
        client.send = lambda payload=None, **frame: (  # type: ignore[method-assign]
            None if frame["t"] == "blob" else write_frame(client.writer, frame, payload)
        )
        assert await client.call("start", order=to_json(order_for(J, "true", files_root="1" * 64))) is None
        assert (await client.report(J, "preparing")).started_at is None
        agent.kill()
    agent.start()
    async with connected(agent) as again:
        report = await again.report(J)
    assert (report.end, "is missing on the server" in report.message) == ("start_failed", True)


async def test_stopping_while_the_files_are_fetched_cancels_the_start(agent: Agent) -> None:
    async with connected(agent) as client:
        send = client.send
        client.send = lambda payload=None, **frame: (  # type: ignore[method-assign]
            None if frame["t"] == "blob" else send(payload, **frame)
        )
        assert await client.call("start", order=to_json(order_for(J, "true", files_root="1" * 64))) is None
        assert await client.call("stop", job_id=J, grace_s=5) is None
        report = await client.report(J)
    assert (report.end, report.started_at, report.exit_code) == ("stopped", None, None)


def test_a_second_agent_in_the_same_folder_is_refused(agent: Agent) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "dstack.agent", "--home", str(agent.home)], capture_output=True, timeout=PATIENCE_S
    )
    assert (second.returncode, second.stdout) == (3, b"")
    assert second.stderr == f"error: another agent lives in `{agent.home}`\n".encode()
    assert agent.process is not None and agent.process.poll() is None


async def test_a_newer_session_ends_the_older_connection_and_an_older_one_is_refused(agent: Agent) -> None:
    older = next(sessions)
    async with connected(agent) as first, connected(agent) as second:
        await first.until(lambda: first.closed)
        reader, writer = await asyncio.open_unix_connection(socket_path(agent.home))
        write_frame(writer, {"t": "hello", "session": older, "server": "test"})
        received = await read_frame(reader)
        assert received is not None and "newer session" in received[0]["error"]["message"]
        assert await read_frame(reader) is None
        writer.close()
        await writer.wait_closed()
        await second.start(J, "echo mine")
        await second.logged(J)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"[1,2]\n",
        b'{"t":"hello"}\n',
        b'{"t":"start","id":1}\n',
        b"x" * 3_000_000,
    ],
)
async def test_rubbish_closes_its_connection_and_harms_nothing(agent: Agent, rubbish: bytes) -> None:
    async with connected(agent) as client:
        reader, writer = await asyncio.open_unix_connection(socket_path(agent.home))
        writer.write(rubbish)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(reader.read(), return_exceptions=True)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        assert await client.call("dance") is not None
        await client.start(J, "echo fine")
        await client.logged(J)
    assert client.log_of(J) == b"fine\n"


async def test_the_folder_and_the_socket_are_for_this_user_only(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "true", env={"TOKEN": "secret"})
        await client.logged(J)
    assert agent.home.stat().st_mode & 0o777 == 0o700
    assert socket_path(agent.home).stat().st_mode & 0o777 == 0o600
    job = agent.home / "jobs" / J
    for path in (agent.home / "jobs").rglob("*"):
        # The pipe is open to any user that the job becomes, in a folder that is not.
        assert path.stat().st_mode & 0o077 == 0 or path.is_relative_to(job / "files") or path == job / "job.pipe", path


async def test_an_agent_in_a_folder_with_a_long_name_is_reached_all_the_same(tmp_path: Path) -> None:
    agent = Agent(tmp_path / ("long-" * 20))
    agent.start()
    try:
        async with connected(agent) as client:
            await client.start(J, "echo fine")
            await client.logged(J)
    finally:
        agent.kill(signal.SIGTERM)
    assert not socket_path(agent.home).exists()
