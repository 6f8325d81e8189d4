"""The way of a data plane to a replica."""

from dataclasses import replace
from pathlib import Path

import pytest

from dstack.agent.paths import channels_path
from dstack.domain.births import first_jobs
from dstack.domain.reasons import reason_of
from dstack.domain.targets import target_of
from dstack.protocol.agent import JobReport
from dstack.protocol.proxy import Channel, Target, Tcp
from dstack.protocol.statuses import JobReason
from tests.making import NOW, instance, run

HOME = "/data/machines/here"
CHANNEL = Channel(str(channels_path(Path(HOME))), "job", 8000)


@pytest.mark.parametrize(
    ("is_container", "address", "target"),
    [
        (False, None, Tcp("127.0.0.1", 8000)),
        (False, "::1", Tcp("::1", 8000)),
        (True, None, CHANNEL),
        (True, "172.17.0.2", Tcp("172.17.0.2", 8000)),
        (True, "evil.example.com", CHANNEL),
    ],
)
def test_replica_is_reached_at_an_address_or_by_a_channel(
    is_container: bool, address: str | None, target: Target
) -> None:
    (job,) = first_jobs(run(), ["job"], NOW)
    report = JobReport("job", "running", port=8000, address=address)
    here = replace(instance(), machine_id=HOME)
    share = replace(job.share, container=is_container)
    job = replace(job, instance_id=here.id, share=share, report=report)
    assert target_of(job, 8000, {here.id: here}) == target


def test_replica_that_failed_for_its_port_has_that_reason() -> None:
    report = JobReport("job", "ended", end="ports_binding_failed", exit_code=1, message="port 80 is in use")
    assert reason_of(report, None) == (JobReason.PORTS_BINDING_FAILED, "port 80 is in use")
