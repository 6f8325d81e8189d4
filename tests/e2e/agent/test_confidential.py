"""What is confidential of a job lies nowhere once it has started, and outlives the agent until then."""

import shutil
import signal
from pathlib import Path

from dstack.agent.confidential import memory_folder, scratch_folder
from dstack.agent.paths import Home
from dstack.protocol.agent import GitSource, JobOrder, to_json
from tests.e2e.agent.agent_client import Agent, J, connected, order_for
from tests.e2e.home import wait_for

SECRET = "the-password-of-the-tests"


def holding(agent: Agent) -> list[Path]:
    """The files of an agent that hold the secret."""
    places = (agent.home, memory_folder(agent.home))
    files = (path for place in places for path in place.rglob("*") if path.is_file())
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def preparing(**order: object) -> dict[str, object]:
    """An order that waits for a file which never comes."""
    made: JobOrder = order_for(J, "echo ${#PASSWORD}", env={"PASSWORD": SECRET}, files_root="0" * 64, **order)
    return to_json(made)


async def test_the_environment_is_in_no_file_once_a_job_has_started(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo started; sleep 60", env={"PASSWORD": SECRET})
        await client.line(J, b"started\n")
        assert holding(agent) == []
        assert await client.call("stop", job_id=J, grace_s=0) is None
        await client.report(J)
    agent.kill(signal.SIGTERM)
    assert not memory_folder(agent.home).exists()


async def test_an_agent_that_starts_anew_in_the_middle_can_still_start_the_job(agent: Agent) -> None:
    async with connected(agent) as client:
        client._give = lambda wanted: None  # type: ignore[method-assign]
        assert await client.call("start", order=preparing()) is None
        await client.report(J, "preparing")
        assert [path.parent for path in holding(agent)] == [memory_folder(agent.home)], "in memory, not on the disk"
        agent.kill()
    order = Home(agent.home).job(J).order
    order.write_text(order.read_text().replace(f'"{"0" * 64}"', "null"))
    agent.start()
    async with connected(agent) as again:
        again.follow(J)
        await again.logged(J)
    assert again.log_of(J).decode() == f"{len(SECRET)}\n"
    assert holding(agent) == []


async def test_a_job_whose_environment_was_lost_with_the_machines_memory_ends_and_says_so(agent: Agent) -> None:
    source = GitSource("https://localhost:1/none", token=SECRET)
    async with connected(agent) as client:
        client._give = lambda wanted: None  # type: ignore[method-assign]
        assert await client.call("start", order=preparing()) is None
        await client.report(J, "preparing")
        agent.kill()
    shutil.rmtree(memory_folder(agent.home))
    agent.start()
    async with connected(agent) as again:
        report = await again.report(J)
        assert report.end == "start_failed" and "switched off" in report.message
        other = order_for(f"{J}-other", "true", git=source)
        assert await again.call("start", order=to_json(other)) is None
        await again.report(f"{J}-other")
    assert holding(agent) == [], "no credentials either of what could not be cloned"


async def test_without_a_place_in_memory_it_is_on_the_disk_until_the_start(agent: Agent) -> None:
    memory_folder(agent.home).write_text("another user's")
    try:
        async with connected(agent) as client:
            client._give = lambda wanted: None  # type: ignore[method-assign]
            assert await client.call("start", order=preparing()) is None
            wait_for("it to be kept", lambda: bool(holding(agent)))
            assert scratch_folder(Home(agent.home).job(J)).is_relative_to(agent.home)
            assert await client.call("stop", job_id=J, grace_s=0) is None
            await client.report(J)
        assert holding(agent) == []
    finally:
        memory_folder(agent.home).unlink()
