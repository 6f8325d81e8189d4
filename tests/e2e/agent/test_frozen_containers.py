"""A job in a container that is frozen, by itself or by somebody else, ends in time all the same."""

from pathlib import Path

import pytest

from dstack.agent.containers.api import ContainerEngine
from dstack.agent.paths import read_json
from tests.e2e.agent.container_host import ContainerHost, until
from tests.engines import DockerEngine


@pytest.mark.parametrize("how", ["stops itself", "is paused"])
async def test_a_frozen_container_is_asked_to_end_and_does(tmp_path: Path, engine: DockerEngine, how: str) -> None:
    host = ContainerHost(tmp_path / "home", engine.socket)
    freeze = "kill -STOP $$; " if how == "stops itself" else ""
    job = await host.start(script=f"trap 'echo bye; exit 3' TERM; echo up; {freeze}while :; do sleep 0.1; done")
    log = host.home.job(job).log("job")
    await until(lambda: log.exists() and log.read_bytes() == b"up\n")
    if how == "is paused":
        known = read_json(host.home.job(job).container, dict) or {}
        await ContainerEngine((str(engine.socket),)).call("POST", f"/containers/{known['id']}/pause")
    await host.jobs.stop(job, 60.0)
    report = await host.end_of(job)
    assert (report.end, report.exit_code) == ("stopped", 3)
    assert log.read_bytes().endswith(b"bye\n"), "the shell may tell of its `sleep`"
