"""An agent is asked to end its jobs and itself, and has the longest grace of its jobs for that."""

import asyncio

import pytest

from dstack.errors import HostUnreachable
from dstack.hosts import link as links
from dstack.hosts.link import Link
from tests.patience import PATIENCE_S
from tests.unit.hosts.test_link import Heard, PlayedAgent, agent, inbox, link

__all__ = ["Heard", "agent", "inbox", "link"]


async def test_shutdown_is_over_once_the_agent_answers(link: Link, agent: PlayedAgent) -> None:
    await agent.welcome()
    leaving = asyncio.create_task(link.shut_down(3600.0))
    asked = await agent.hear()
    assert asked["t"] == "shutdown" and not leaving.done(), "the jobs have their grace"
    agent.say(t="reply", id=asked["id"], error=None)
    async with asyncio.timeout(PATIENCE_S):
        await leaving


async def test_connection_that_breaks_during_the_grace_is_waited_for(link: Link, agent: PlayedAgent) -> None:
    await agent.welcome()
    leaving = asyncio.create_task(link.shut_down(3600.0))
    await agent.hear()
    agent.pipe.streams()[1].close()
    await agent.welcome()
    asked = await agent.hear()
    assert asked["t"] == "shutdown" and not leaving.done()
    agent.say(t="reply", id=asked["id"], error=None)
    async with asyncio.timeout(PATIENCE_S):
        await leaving


async def test_agent_that_cannot_be_reached_has_no_grace(
    link: Link, agent: PlayedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "REPLY_TIMEOUT_S", 0.01)
    with pytest.raises(HostUnreachable, match=r"did not answer within 0\.01 s"):
        await link.shut_down(3600.0)


async def test_agent_that_does_not_end_its_jobs_in_time_is_given_up(
    link: Link, agent: PlayedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent.welcome()
    async with asyncio.timeout(PATIENCE_S):
        await link._ready.wait()
    monkeypatch.setattr(links, "REPLY_TIMEOUT_S", 0.01)
    with pytest.raises(HostUnreachable):
        await link.shut_down(0.0)
