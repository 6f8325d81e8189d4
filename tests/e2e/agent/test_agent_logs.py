"""What a host keeps of what jobs print: little while the server takes it, a bounded part while it does not."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.agent.paths import Home
from dstack.protocol.agent import to_json
from tests.e2e.agent.agent_client import PATIENCE_S, Agent, Client, J, connected, order_for
from tests.e2e.home import wait_for
from tests.printing import numbered, printing

BOUND_BYTES = 4 << 20
STEPS_BYTES = 2 * (8 << 20)
"""What the server has is given back in steps; between two looks a job prints a few megabytes."""


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Agent]:
    """An agent that keeps little."""
    monkeypatch.setenv("DSTACK_AGENT_LOG_BYTES_MAX", str(BOUND_BYTES))
    made = Agent(tmp_path / "bounded")
    made.start()
    yield made
    made.kill()


def log_of(agent: Agent) -> os.stat_result:
    return Home(agent.home).job(J).log("job").stat()


def disk_bytes(agent: Agent) -> int:
    return log_of(agent).st_blocks * 512


def gate(agent: Agent) -> Path:
    """A pipe: who reads it waits until somebody writes."""
    os.mkfifo(agent.home / "gate")
    return agent.home / "gate"


async def until_on_disk(agent: Agent, bytes_max: int) -> None:
    await asyncio.to_thread(wait_for, "the log to be within its bound", lambda: disk_bytes(agent) <= bytes_max)


async def until_printed(agent: Agent, size: int) -> None:
    await asyncio.to_thread(wait_for, "the job to print", lambda: log_of(agent).st_size >= size)


def assert_right_but_for_its_gaps(client: Client, size: int) -> None:
    known, offset = client.log_of(J), 0
    assert len(known) == size
    for start, end in [*client.gaps, (size, size)]:
        assert known[offset:start] == numbered(offset, start)
        offset = end


async def test_what_the_server_has_takes_no_room_on_the_host(agent: Agent) -> None:
    size = 64_000_000
    async with connected(agent) as client:
        await client.start(J, f"{printing(size)}; read line <{gate(agent)}")
        await client.until(lambda: len(client.log_of(J)) == size)
        await until_on_disk(agent, STEPS_BYTES)
        (agent.home / "gate").write_text("open\n")
        report = await client.logged(J)
    assert (report.log_bytes, client.gaps) == (size, [])
    assert client.log_of(J) == numbered(0, size)


@pytest.mark.parametrize("agent_dies", [False, True])
async def test_while_no_server_is_there_the_oldest_output_goes_and_that_is_told(
    bounded: Agent, agent_dies: bool
) -> None:
    size = 64_000_000
    async with connected(bounded) as client:
        halves = f"{printing(size // 2)}; read line <{gate(bounded)}; {printing(size // 2, size // 2)}"
        assert await client.call("start", order=to_json(order_for(J, halves))) is None
    await until_printed(bounded, size // 2)
    if agent_dies:
        bounded.kill()
    await asyncio.to_thread((bounded.home / "gate").write_text, "open\n")
    await until_printed(bounded, size)
    if agent_dies:
        bounded.start()
    await until_on_disk(bounded, BOUND_BYTES + (1 << 16))
    async with connected(bounded) as client:
        client.follow(J)
        report = await client.logged(J)
    assert (report.end, report.exit_code, report.log_bytes) == ("exited", 0, size)
    assert len(client.gaps) == 1 and client.gaps[0][0] == 0
    assert BOUND_BYTES // 2 <= size - client.gaps[0][1] <= BOUND_BYTES
    assert_right_but_for_its_gaps(client, size)


@pytest.mark.parametrize("same_connection", [True, False])
async def test_what_was_sent_and_not_acknowledged_is_sent_again_or_told_as_lost(
    bounded: Agent, same_connection: bool
) -> None:
    size = 32_000_000
    async with connected(bounded, acknowledges=False) as client:
        await client.start(J, printing(size))
        await client.until(lambda: len(client.log_of(J)) == 2 << 20)
        await client.report(J)
        await until_on_disk(bounded, BOUND_BYTES + (1 << 16))
        if same_connection:
            client.acknowledges = True
            client.send(t="log_ack", job_id=J, stream="job", offset=len(client.log_of(J)))
            client.send(t="log_ack", job_id=J, stream="agent", offset=len(client.log_of(J, "agent")))
            await client.logged(J)
    if not same_connection:
        async with connected(bounded) as client:
            client.follow(J)
            await client.logged(J)
    assert [start for start, _ in client.gaps] == [2 << 20 if same_connection else 0]
    assert_right_but_for_its_gaps(client, size)


async def test_a_server_that_lost_its_store_is_told_what_is_gone(agent: Agent) -> None:
    size = 32_000_000
    async with connected(agent) as client:
        await client.start(J, printing(size))
        await client.logged(J)
        await until_on_disk(agent, STEPS_BYTES)
    agent.kill()
    agent.start()
    async with connected(agent) as client:
        client.follow(J)
        await client.logged(J)
    assert [start for start, _ in client.gaps] == [0]
    assert_right_but_for_its_gaps(client, size)


async def test_a_job_that_opens_its_output_by_name_loses_nothing(agent: Agent) -> None:
    script = (
        "echo first; echo to stderr > /dev/stderr; echo third; echo four > /dev/stdout; echo five >&2; "
        f"{printing(4_000_000)} | tee /dev/stderr > /dev/null; echo last > /proc/self/fd/1"
    )
    async with connected(agent) as client:
        await client.start(J, script)
        report = await client.logged(J)
    text = bytes(client.log_of(J))
    assert text == b"first\nto stderr\nthird\nfour\nfive\n" + numbered(0, 4_000_000) + b"last\n"
    assert (client.gaps, report.log_bytes) == ([], len(text))


async def test_a_job_that_another_user_continues_can_open_its_output_by_name(agent: Agent) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = "import os; os.setuid(65534); open('/dev/stderr', 'w').write('nobody\\n')"
    async with connected(agent) as client:
        await client.start(J, f"{sys.executable} -c {shlex.quote(program)}")
        await client.logged(J)
    assert bytes(client.log_of(J)) == b"nobody\n"


async def test_whoever_dies_no_byte_is_lost(agent: Agent) -> None:
    script = f"{printing(100_000)}; read line <{gate(agent)}; {printing(1_000_000, 100_000)}; touch over; sleep 1000"
    async with connected(agent) as client:
        await client.start(J, script)
        await client.until(lambda: len(client.log_of(J)) == 100_000)
    supervisor = agent.supervisor(J)
    agent.kill()
    os.kill(supervisor, signal.SIGKILL)
    await asyncio.to_thread((agent.home / "gate").write_text, "open\n")
    agent.start()
    async with connected(agent) as client:
        client.follow(J)
        report = await client.logged(J)
    assert report.end == "supervisor_lost"
    assert bytes(client.log_of(J)) == numbered(0, len(client.log_of(J)))
    assert len(client.log_of(J)) >= 100_000


async def test_a_bound_that_is_no_number_is_one_clear_message(tmp_path: Path) -> None:
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dstack.agent", "--home", str(tmp_path / "home")),
        env={**os.environ, "DSTACK_AGENT_LOG_BYTES_MAX": "much"},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        _, said = await agent.communicate()
    assert (agent.returncode, said) == (1, b"error: DSTACK_AGENT_LOG_BYTES_MAX must be a positive number\n")
