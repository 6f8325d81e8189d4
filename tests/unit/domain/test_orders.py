"""What an agent is told of a job: where it runs, and what it finds there."""

from dataclasses import replace
from typing import Any

import pytest

from dstack.domain.births import first_jobs
from dstack.domain.default_images import NVCC_IMAGE
from dstack.domain.market import Market
from dstack.domain.objects import Job, Run
from dstack.domain.offers import Offer, container_wishes
from dstack.domain.orders import Confidential, order_of
from dstack.domain.placement import JobQueue, place
from dstack.protocol.agent import (
    FIRST_ORDER_FIELDS,
    Engine,
    Header,
    JobOrder,
    Mount,
    Probe,
    Serving,
    to_json,
    unknown_fields,
)
from dstack.protocol.agent import order_of as order_from_json
from tests.making import CLOUD, HERE, NOW, instance, run
from tests.unit.domain.scanning import reasons_of

HERE_WITH_PYTHON = replace(HERE, resources=replace(HERE.resources, pythons=("3.9", "3.12")))
HERE_WITH_ENGINE = replace(HERE, resources=replace(HERE.resources, engine=Engine("docker", "28", "x86_64")))
CLOUD_WITH_ENGINE = replace(CLOUD, resources=replace(CLOUD.resources, engine=HERE_WITH_ENGINE.resources.engine))


def submitted(**fields: Any) -> tuple[Run, Job]:
    """A run that came with the submitter's path, and its job."""
    one = run(spec={"configuration": {"type": "task", "commands": ["true"], **fields}, "path": "/theirs"})
    return one, first_jobs(one, ["job"], NOW)[0]


def order(offer: Offer, **fields: Any) -> JobOrder:
    """What the agent of such a machine is told."""
    one, job = submitted(**fields)
    (placed,) = place(JobQueue([job]), [], Market.of([offer]), {}).placed
    there = instance(offer=offer)
    job = replace(job, instance_id=there.id, share=placed.share)
    return order_of(one, one.current, job, [job], {there.id: there}, Confidential())


@pytest.mark.parametrize(
    ("offer", "fields", "image", "python"),
    [
        (HERE, {}, None, None),
        (HERE_WITH_PYTHON, {"python": "3.12"}, None, "3.12"),
        (HERE_WITH_ENGINE, {"python": "3.12"}, "python:3.12", None),
        (HERE_WITH_ENGINE, {"python": "3.12", "user": "me"}, "python:3.12", None),
        (CLOUD_WITH_ENGINE, {"python": "3.12"}, "python:3.12", None),
        (CLOUD_WITH_ENGINE, {}, "python:3.12", None),
        (CLOUD, {}, None, None),
    ],
)
def test_a_version_of_python_is_an_interpreter_of_the_machine_or_else_an_image(
    offer: Offer, fields: dict[str, Any], image: str | None, python: str | None
) -> None:
    found = order(offer, **fields)
    assert (found.container and found.container.image, found.python) == (image, python)


def test_replica_is_ordered_with_its_port_and_probes() -> None:
    probe = {"type": "http", "url": "/health?a=b", "method": "post", "body": "x", "interval": "3s", "timeout": 2}
    more = {"headers": [{"name": "X-A", "value": "1"}], "ready_after": 2, "until_ready": True}
    found = order(HERE, type="service", port="80:8000", probes=[{**probe, **more}, {"type": "http"}])
    first = Probe("/health?a=b", "post", (Header("X-A", "1"),), "x", 2.0, 3.0, ready_after=2, until_ready=True)
    assert found.service == Serving(8000, (first, Probe()))
    assert order_from_json(to_json(found)) == found
    assert unknown_fields(found, FIRST_ORDER_FIELDS) == ["service"], "an older agent would run it without a port"
    assert order(HERE).service is None


def test_references_in_a_login_and_in_variables_are_filled() -> None:
    found = order(
        HERE_WITH_ENGINE,
        image="x",
        env={"HOST": "r.example.com", "URL": "https://${{ env.USER }}@${{ env.HOST }}", "USER": "me", "A": "$${{ b }}"},
        registry_auth={"username": "${{ env.USER }}", "password": "${{ env.URL }}"},
    )
    assert found.env["URL"] == "https://me@r.example.com" and found.env["A"] == "${{ b }}"
    assert found.container is not None
    assert (found.container.username, found.container.password) == ("me", found.env["URL"])


def test_options_of_volumes_reach_the_agent_and_plain_ones_look_as_before() -> None:
    found = order(
        HERE_WITH_ENGINE,
        volumes=["/a:/b", "/c:/d:ro", {"instance_path": "/e", "path": "/f", "optional": True}],
    )
    assert found.container is not None
    assert found.container.mounts == (
        Mount("/a", "/b"),
        Mount("/c", "/d", read_only=True),
        Mount("/e", "/f", optional=True),
    )
    body = to_json(found)
    assert body["container"]["mounts"][0] == {"source": "/a", "path": "/b"}, "an older agent knows no options"
    assert order_from_json(body) == found


def test_image_with_the_cuda_compiler_gets_the_python_that_is_asked_for() -> None:
    with_python = order(HERE_WITH_ENGINE, nvcc=True, python="3.11", env={"A": "1"})
    assert with_python.container is not None and with_python.container.image == NVCC_IMAGE
    assert "uv venv -q --seed --python 3.11 /opt/python" in with_python.script
    assert with_python.script.endswith(order(HERE).script) and with_python.env["PATH"].startswith("/opt/python/bin:")
    alone = order(HERE_WITH_ENGINE, nvcc=True)
    assert alone.script == order(HERE).script and "PATH" not in alone.env
    assert order(HERE_WITH_ENGINE, nvcc=True, python="3.11", env={"PATH": "/mine"}).env["PATH"] == "/mine"


def test_only_processes_of_this_machine_get_the_submitters_path() -> None:
    assert order(HERE).path == order(HERE_WITH_PYTHON, python="3.12").path == "/theirs"
    assert order(HERE_WITH_ENGINE, image="ubuntu").path is None, "an image has its own"
    assert order(CLOUD).path is None, "another machine has other folders"


def test_a_version_that_is_nowhere_is_refused_with_those_that_are_there() -> None:
    _, job = submitted(python="3.11")
    wish = "`python: 3.11` (the machine has 3.9, 3.12)"
    said = f"{wish} needs a container, and there is no container engine"
    assert reasons_of(job.demand, HERE_WITH_PYTHON) == [said]
    assert container_wishes(job.demand, HERE.resources) == ("`python: 3.11` (the machine has none)",)


def test_all_nodes_of_a_gang_run_alike() -> None:
    one = run(spec={"configuration": {"type": "task", "commands": ["true"], "python": "3.12", "nodes": 2}})
    with_both = replace(HERE_WITH_ENGINE.resources, cpus=1, pythons=("3.12",))
    small = replace(HERE_WITH_PYTHON, instance_type="a", resources=with_both)
    other = replace(small, instance_type="b", resources=replace(HERE_WITH_ENGINE.resources, cpus=1))
    placed = place(JobQueue(first_jobs(one, ["a", "b"], NOW)), [], Market.of([small, other]), {}).placed
    assert [placement.share.container for placement in placed] == [True, True]


@pytest.mark.parametrize(("path", "files"), [("src", ()), ("/workflow/src", ()), ("/app", ("/app",))])
def test_repo_lies_where_the_configuration_says(path: str, files: tuple[str, ...]) -> None:
    repos = [{"url": "https://example.com/team/app", "path": path}]
    found = order(HERE_WITH_ENGINE, image="x", repos=repos)
    assert found.repo_path == path.removeprefix("/workflow/")
    assert found.container is not None and found.container.files == files
