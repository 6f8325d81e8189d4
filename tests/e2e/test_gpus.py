"""Runs on a machine with two made-up cards: whole cards, one job each."""

import json
import os
import stat
from pathlib import Path

import pytest

from dstack.agent.containers.api import ContainerEngine
from dstack.agent.containers.images import find_image
from dstack.agent.containers.making import Maker
from dstack.agent.gpus.amd import Amd
from dstack.agent.gpus.cards import Card, Cards
from dstack.agent.output import empty_pipe, holding_pipe, make_pipe
from dstack.agent.paths import Home as AgentHome
from dstack.agent.paths import JobFolder
from dstack.api import Resources, Run, RunStatus, Task
from dstack.protocol.agent import Container, Gpu, JobOrder
from tests.e2e.home import Home, wait_for
from tests.engines import SHELL_IMAGE, DockerEngine
from tests.nvml import T4, build_library

AMD = Amd()
SHOW = 'echo "[$CUDA_VISIBLE_DEVICES] $DSTACK_GPUS_PER_NODE"'


@pytest.fixture
def home(home: Home, two_cards: None) -> Home:
    """A home on the machine with cards."""
    home.env["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return home


def submit(home: Home, name: str, gpu: object, *commands: str, **fields: object) -> Run:
    resources = Resources.model_validate({"cpu": 1, "memory": "64MB", "gpu": gpu})
    task = Task.model_validate({"commands": list(commands), "resources": resources, **fields})
    return home.client().runs.submit(run_name=name, configuration=task)


def printed(run: Run) -> str:
    return b"".join(run.logs()).decode()


def test_two_jobs_get_different_cards_and_a_third_waits_for_one_of_them(home: Home) -> None:
    holders = [submit(home, f"holder-{number}", 1, SHOW, "sleep 1000") for number in range(2)]
    first, second = (next(iter(run.logs())).decode() for run in holders)
    assert {first, second} == {"[0] 1\n", "[1] 1\n"}
    third = submit(home, "third", 1, SHOW)
    third.refresh()
    assert third.status is RunStatus.SUBMITTED
    assert "and 1 GPU; " in third.detail and "and 0 of 2 GPUs are free on local" in third.detail
    holders[1].stop()
    assert printed(third) == second
    holders[0].stop()


def test_a_card_that_has_failed_is_given_to_nobody_any_more(home: Home) -> None:
    holder = submit(home, "holder", "T4", SHOW, "sleep 1000")
    assert next(iter(holder.logs())) == b"[1] 1\n"
    build_library(Path(home.env["LD_LIBRARY_PATH"]), [T4])
    home.kill_agent()
    wait_for("the failed card to be told", lambda: "A100" not in home.client().instances()[0].resources)
    later = submit(home, "later", 1, SHOW)
    later.refresh()
    assert "and 0 of 1 GPU are free on local; " in later.detail
    holder.stop()
    assert printed(later) == "[0] 1\n", "programs count the cards that work"


def test_a_job_gets_what_it_asks_for_and_one_without_cards_sees_none(home: Home) -> None:
    assert printed(submit(home, "both", 2, SHOW)) == "[0,1] 2\n"
    assert printed(submit(home, "small", "T4", SHOW)) == "[1] 1\n"
    assert printed(submit(home, "able", {"compute_capability": 8, "count": "1.."}, SHOW)) == "[0] 1\n"
    assert printed(submit(home, "total", {"total_memory": "48GB..", "count": "1..2"}, SHOW)) == "[0,1] 2\n"
    assert printed(submit(home, "none", 0, SHOW)) == "[] 0\n"


def test_cards_are_shown_as_an_offer_and_what_they_lack_is_named(home: Home) -> None:
    shown = home.cli("offer", "--gpu", "A100")
    assert "(disk), 1xA100-SXM4-40GB (40GB), 1xT4 (15GB)" in shown.stdout
    home.write(
        "run.yml", json.dumps({"type": "task", "commands": ["true"], "resources": {"gpu": {"compute_capability": 9}}})
    )
    refused = home.cli("apply", "-y", "-f", "run.yml")
    assert "gpu.compute_capability: asked 9.0, has 8.0, 7.5" in refused.stderr


async def test_a_container_can_open_the_files_of_its_own_cards_and_no_others(
    engine: DockerEngine, tmp_path: Path
) -> None:
    cards = []
    for number, minor in enumerate((3, 5)):  # /dev/null and /dev/zero
        node = tmp_path / f"card{number}"
        os.mknod(node, stat.S_IFCHR | 0o660, os.makedev(1, minor))
        node.chmod(0o660)
        os.chown(node, 0, 4242 + number)
        cards.append((AMD, Card(Gpu("amd", "x", 1), number, nodes=(str(node),), groups=(4242 + number,))))
    folder = JobFolder(tmp_path / "job")
    folder.files.mkdir(parents=True)
    folder.log("job").touch()
    make_pipe(folder)
    show = f"for node in {tmp_path}/card*; do : 3<>$node && echo ${{node##*/}}; done; id -G; echo $ROCR_VISIBLE_DEVICES"
    order = JobOrder("job", "run", show, gpus=(1,), container=Container(SHELL_IMAGE, user="1234:100"))
    assert order.container is not None
    client = ContainerEngine((str(engine.socket),))
    image = await find_image(client, SHELL_IMAGE)
    assert image is not None
    maker = Maker(AgentHome(tmp_path), client, lambda: Cards(tuple(cards)))
    made = await maker.make(folder, order, order.container, image)
    with holding_pipe(folder):
        await client.call("POST", f"/containers/{made.id}/start")
        await client.call("POST", f"/containers/{made.id}/wait")
        empty_pipe(folder)
    await maker.remove("job")
    assert folder.log("job").read_text() == "card1\n100 4243\n0\n"


def test_an_engine_that_cannot_give_cards_is_one_clear_reason(
    home: Home, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    run = submit(home, "in-container", 1, "true", image=SHELL_IMAGE)
    assert printed(run) == ""
    run.refresh()
    assert (run.status, run.reason) == (RunStatus.FAILED, "creating_container_error")
    problem = "The container engine of the machine cannot give GPUs to containers: could not select device driver"
    assert run.detail.startswith(problem)
    wait_for("the end of all containers", lambda: engine.containers() == [])
