"""What an agent tells of what its jobs use, whatever server is away."""

import asyncio

from tests.e2e.agent.agent_client import PATIENCE_S, Agent, J, connected


async def test_points_are_told_to_whoever_connects_and_those_of_the_last_minute_again(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 600")
        await client.until(lambda: client.points)
    async with connected(agent) as again:
        await again.until(lambda: len(again.points.get(J, ())) > 1)
        assert again.points[J][0] == client.points[J][0], "it might have been lost with the connection"
        assert again.points[J][0].at < again.points[J][1].at
        await again.call("stop", job_id=J, grace_s=0)
        await again.report(J)


async def test_points_of_a_time_without_a_server_are_told_to_the_next_one(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 2; echo later; sleep 600")
        await client.line(J, b"up\n")
    log = agent.home / "jobs" / J / "job.log"
    async with asyncio.timeout(PATIENCE_S):
        while b"later" not in log.read_bytes():  # noqa: ASYNC110 - without a server nobody tells
            await asyncio.sleep(0.05)
    async with connected(agent) as again:
        await again.until(lambda: again.points.get(J))
        started_at = again.reports[J].started_at
        assert started_at is not None and again.points[J][0].at < started_at + 2
        await again.call("stop", job_id=J, grace_s=0)
        await again.report(J)
