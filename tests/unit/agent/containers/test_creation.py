"""What an engine is asked for, so that a container has its cards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from dstack.agent.containers.api import ContainerEngine
from dstack.agent.containers.creation import creation
from dstack.agent.containers.images import Image
from dstack.agent.containers.making import Maker
from dstack.agent.gpus.cards import NOTHING, Card, Cards, Grant
from dstack.agent.gpus.nvidia import Nvidia
from dstack.agent.gpus.tpu import Google
from dstack.agent.paths import Home, JobFolder
from dstack.errors import AgentRefused
from dstack.protocol.agent import Container, Gpu, JobOrder, Mount

IMAGE = Image("sha256:1", "x86_64", (), (), "", "/", "/bin")


def body(grant: Grant, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    order = JobOrder("j", "r", "true", env=dict(env or {}), container=Container("x"))
    return creation(order, IMAGE, JobFolder(Path("/home/jobs/j")), {}, Path("/launch"), grant)


def test_without_cards_no_device_is_asked_for() -> None:
    host = body(NOTHING)["HostConfig"]
    assert not {"DeviceRequests", "Devices", "GroupAdd", "Ulimits"} & set(host)


def test_cards_of_nvidia_are_requested_by_their_ids() -> None:
    cards = Cards(((Nvidia(), Card(Gpu("nvidia", "T4", 1), 0, "GPU-a")),))
    made = body(cards.grant([0]), env={"NVIDIA_VISIBLE_DEVICES": "all"})
    assert made["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": ["GPU-a"], "Capabilities": [["gpu"]]}]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-a" in made["Env"], "what a job writes gets it no cards of others"
    assert "NVIDIA_VISIBLE_DEVICES=void" in body(cards.grant([]))["Env"]


def test_device_files_are_given_with_their_groups_and_the_memory_lock_that_tpus_need() -> None:
    chip = Card(Gpu("google", "v4", 1), 0, nodes=("/dev/vfio/vfio", "/dev/vfio/0"), groups=(0, 44))
    host = body(Cards(((Google(), chip),)).grant([0]))["HostConfig"]
    assert host["Devices"] == [
        {"PathOnHost": "/dev/vfio/vfio", "PathInContainer": "/dev/vfio/vfio", "CgroupPermissions": "rwm"},
        {"PathOnHost": "/dev/vfio/0", "PathInContainer": "/dev/vfio/0", "CgroupPermissions": "rwm"},
    ]
    assert host["GroupAdd"] == ["0", "44"]
    assert host["Ulimits"] == [{"Name": "memlock", "Soft": -1, "Hard": -1}]


class Engine:
    """Says that it is Podman."""

    async def is_podman(self) -> bool:
        return True

    async def shares_kernel(self) -> bool:
        return True


async def test_podman_which_would_silently_give_no_card_of_nvidias_is_not_asked_for_one(tmp_path: Path) -> None:
    cards = Cards(((Nvidia(), Card(Gpu("nvidia", "T4", 1), 0, "GPU-a")),))
    folder = JobFolder(tmp_path / "j")
    folder.files.mkdir(parents=True)
    folder.log("job").touch()
    container = Container("x")
    maker = Maker(Home(tmp_path), cast(ContainerEngine, Engine()), lambda: cards)
    with pytest.raises(AgentRefused, match="Podman does not pass NVIDIA GPUs"):
        await maker.make(folder, JobOrder("j", "r", "true", gpus=(0,), container=container), container, IMAGE)


def test_processes_of_a_container_are_bounded_by_its_cpus() -> None:
    order = JobOrder("j", "r", "true", container=Container("x", cpus=64))
    made: Any = creation(order, IMAGE, JobFolder(Path("/home/jobs/j")), {}, Path("/launch"), NOTHING)
    assert made["HostConfig"]["PidsLimit"] == 32768
    small: Any = body(NOTHING)
    assert small["HostConfig"]["PidsLimit"] >= 4096, "of a container that may use all CPUs, too"


def test_volumes_are_mounted_as_their_options_say(tmp_path: Path) -> None:
    mounts = (
        Mount(str(tmp_path), "/a"),
        Mount(str(tmp_path), "/b", read_only=True),
        Mount(str(tmp_path), "/c", optional=True),
        Mount(str(tmp_path / "missing"), "/d", optional=True),
    )
    order = JobOrder("j", "r", "true", container=Container("x", mounts=mounts))
    made: Any = creation(order, IMAGE, JobFolder(Path("/home/jobs/j")), {}, Path("/launch"), NOTHING)
    found = {one["Target"]: one["ReadOnly"] for one in made["HostConfig"]["Mounts"] if len(one["Target"]) == 2}
    assert found == {"/a": False, "/b": True, "/c": False}


@pytest.mark.parametrize(
    ("working_dir", "place"), [(".", "/workflow"), ("src/../lib", "/workflow/lib"), ("/app/x", "/app/x"), ("/", "/")]
)
def test_commands_start_in_the_files_or_at_an_absolute_path(working_dir: str, place: str) -> None:
    order = JobOrder("j", "r", "true", working_dir=working_dir, container=Container("x"))
    made: Any = creation(order, IMAGE, JobFolder(Path("/home/jobs/j")), {}, Path("/launch"), NOTHING)
    assert made["WorkingDir"] == place and f"DSTACK_WORKING_DIR={place}" in made["Env"]
