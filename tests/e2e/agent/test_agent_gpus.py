"""A real agent on a host with two made-up cards: who gets which, and what nobody gets."""

import os
from pathlib import Path

import asyncssh
import pytest

from dstack.kit.plain import from_plain
from dstack.protocol.agent import Gpu, HostResources, to_json
from tests.e2e.agent.agent_client import Agent, Client, J, connected, order_for
from tests.e2e.agent.test_agent_sshd import public, ssh
from tests.nvml import T4, build_library

pytestmark = pytest.mark.usefixtures("two_cards")

SHOW = 'echo "[$CUDA_VISIBLE_DEVICES] by $CUDA_DEVICE_ORDER"; '
OTHER = J + "-other"


async def refusal(client: Client, *gpus: int) -> str | None:
    """Why the agent does not take another job with these cards."""
    error = await client.call("start", order=to_json(order_for(OTHER, "true", gpus=gpus)))
    return None if error is None else error["message"]


async def test_the_server_is_told_of_the_cards_and_each_job_sees_its_own(agent: Agent) -> None:
    async with connected(agent) as client:
        assert from_plain(HostResources, client.welcome["resources"]).gpus == (
            Gpu("nvidia", "A100-SXM4-40GB", 40960, "8.0"),
            Gpu("nvidia", "T4", 15360, "7.5"),
        )
        for number, gpus in enumerate([(1,), (0,), ()]):
            await client.start(f"{J}-{number}", SHOW, gpus=gpus, env={"CUDA_VISIBLE_DEVICES": "0,1"})
            await client.logged(f"{J}-{number}")
        shown = [bytes(client.log_of(f"{J}-{number}")).decode() for number in range(3)]
    assert shown == ["[1] by PCI_BUS_ID\n", "[0] by PCI_BUS_ID\n", "[] by PCI_BUS_ID\n"]


async def test_a_card_is_refused_to_a_second_job_until_the_first_has_ended_also_by_the_next_agent(agent: Agent) -> None:
    held = f"The GPU number 1 of the machine is still the job `{J}`'s, of the run `a-run`"
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 1000", gpus=(1,))
        assert await refusal(client, 0, 1) == held
        await client.line(J, b"up\n")
        assert await refusal(client, 1) == held
        agent.kill()
        await client.until(lambda: client.closed)
    agent.start()
    async with connected(agent) as again:
        assert await refusal(again, 1) == held
        assert await again.call("stop", job_id=J, grace_s=0) is None
        await again.report(J)
        assert await refusal(again, 1) is None
        await again.report(OTHER)


async def test_when_a_card_fails_the_next_agent_does_not_give_away_the_one_a_job_has(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 1000", gpus=(1,))
        await client.line(J, b"up\n")
        first, second = client.welcome["resources"]["gpus"]
        agent.kill()
        await client.until(lambda: client.closed)
    build_library(Path(os.environ["LD_LIBRARY_PATH"]), [T4])
    agent.start()
    async with connected(agent) as again:
        assert again.welcome["resources"]["gpus"] == [{**first, "gone": True}, second]
        assert (
            await refusal(again, 1) == f"The GPU number 1 of the machine is still the job `{J}`'s, of the run `a-run`"
        )
        assert await refusal(again, 0) is None
        report = await again.report(OTHER)
        assert report.end == "start_failed"
        assert report.message.startswith("A GPU of the job is no longer found. Check")


async def test_a_card_that_is_not_there_ends_the_job_with_one_clear_reason(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "true", gpus=(2,))
        report = await client.report(J)
    assert report.end == "start_failed"
    assert report.message.startswith("The job was given the GPU number 2 of a machine with 2 GPUs to be found")


async def test_who_comes_in_by_ssh_sees_the_cards_of_the_job(agent: Agent) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 1000", gpus=(1,), authorized_keys=(public(key),))
        await client.line(J, b"up\n")
        await client.until(lambda: client.ssh)
        async with ssh(client, key) as connection:
            assert (await connection.run(SHOW, check=True)).stdout == "[1] by PCI_BUS_ID\n"
