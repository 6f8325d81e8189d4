"""A process that others depend on is replaced when it dies: a machine goes on to take jobs, and loses none."""

import os
import resource
import signal
from pathlib import Path

from dstack.agent.paths import Home
from dstack.agent.processes import marked, parents
from tests.e2e.agent.agent_client import Agent, J, connected
from tests.e2e.home import wait_for


def children(pid: int) -> list[int]:
    """Those that live."""
    return sorted(child for child, parent in parents().items() if parent == pid)


def spawner_of(agent: Agent) -> int:
    """The first child that an agent has, before it has loaded anything; its replacement says what it is."""
    assert agent.process is not None
    for pid in children(agent.process.pid):
        if b"dstack.agent.sshd" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("the agent has no spawner")


async def test_killed_spawner_is_replaced_and_no_job_fails(agent: Agent) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    async with connected(agent) as client:
        await client.start(f"{J}-before", "trap 'exit 3' TERM; echo up; while true; do sleep 0.02; done")
        await client.until(lambda: client.log_of(f"{J}-before") == b"up\n")
        for number in range(2):
            spawner = spawner_of(agent)
            os.kill(spawner, signal.SIGKILL)
            for name in ("a", "b"):
                await client.start(f"{J}-{name}{number}", "ulimit -n; umask")
            for name in ("a", "b"):
                ended = await client.logged(f"{J}-{name}{number}")
                assert (ended.end, ended.exit_code) == ("exited", 0)
                assert client.log_of(f"{J}-{name}{number}") == f"{limit}\n0022\n".encode()
            assert spawner_of(agent) != spawner
        await client.call("stop", job_id=f"{J}-before", grace_s=30)
        ended = await client.logged(f"{J}-before")
        assert (ended.end, ended.exit_code) == ("stopped", 3)


async def test_output_survives_when_agent_and_supervisor_are_killed_at_once(agent: Agent) -> None:
    job_id, lines = f"{J}-alone", "".join(f"{number}\n" for number in range(1, 101)).encode()
    files = Home(agent.home).job(job_id).files
    async with connected(agent) as client:
        await client.start(job_id, "echo up; until [ -e go ]; do sleep 0.02; done; seq 100; touch last")
        await client.until(lambda: client.log_of(job_id) == b"up\n")
    agent.kill()
    os.kill(agent.supervisor(job_id), signal.SIGKILL)
    (files / "go").touch()
    wait_for("the end of the job", lambda: (files / "last").exists() and not marked(job_id))
    agent.start()
    async with connected(agent) as client:
        client.follow(job_id)
        ended = await client.logged(job_id)
        assert (ended.end, client.log_of(job_id)) == ("supervisor_lost", b"up\n" + lines)
