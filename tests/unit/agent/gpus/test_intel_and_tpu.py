"""Intel's and Google's cards by the kernel's files, and how jobs get them."""

from pathlib import Path

from dstack.agent.gpus.cards import Cards, Vendor
from dstack.agent.gpus.intel import Gaudi, IntelGraphics
from dstack.agent.gpus.tpu import Google
from dstack.protocol.agent import Gpu
from tests.unit.agent.gpus.trees import Machine


def all_of(vendor: Vendor) -> Cards:
    return Cards(tuple((vendor, card) for card in vendor.cards()))


def test_graphics_of_the_cpu_are_no_card_but_are_counted(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.graphics("0000:00:02.0", 129, "0x8086", "0xa780")
    machine.graphics("0000:03:00.0", 128, "0x8086", "0x56c0")
    machine.graphics("0000:04:00.0", 130, "0x1002", "0x73df")
    cards = IntelGraphics(tmp_path).cards()
    assert [(card.gpu, card.number, card.nodes) for card in cards] == [
        (Gpu("intel", "Flex 170", 16384), 1, ("/dev/dri/renderD128",))
    ]


def test_the_memory_of_a_graphics_card_is_what_its_driver_tells(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    one = machine.graphics("0000:03:00.0", 128, "0x8086", "0x56a0")
    two = machine.graphics("0000:04:00.0", 129, "0x8086", "0xffff")
    for path in (one / "drm/card0/lmem_total_bytes", two / "tile0/physical_vram_size_bytes"):
        path.parent.mkdir(parents=True)
        path.write_text(f"{8 << 30}\n")
    (two / "tile1").mkdir()
    (two / "tile1/physical_vram_size_bytes").write_text(f"{8 << 30}\n")
    assert all_of(IntelGraphics(tmp_path)).gpus == (
        Gpu("intel", "Arc A770", 8192),
        Gpu("intel", "0x8086:0xffff", 16384),
    )


def test_a_process_sees_its_own_graphics_cards_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for number in range(3):
        machine.graphics(f"0000:0{number + 3}:00.0", 128 + number, "0x8086", "0x0bd5")
    cards = all_of(IntelGraphics(tmp_path))
    assert cards.visible([0, 2]) == {"ZE_AFFINITY_MASK": "0,2", "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"}
    assert cards.visible([])["ZE_AFFINITY_MASK"] == "255", "an empty mask would show all"
    assert cards.grant([2]).nodes == ("/dev/dri/renderD130",)
    assert cards.grant([2]).env["ZE_AFFINITY_MASK"] == "0"


def test_gaudis_are_known_and_given_by_their_files(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.gaudi(10, "0x1060")
    machine.gaudi(2)
    machine.gaudi(3, "0x9999")
    cards = all_of(Gaudi(tmp_path))
    assert cards.gpus == (
        Gpu("intel", "Gaudi2", 96 << 10),
        Gpu("intel", "0x1da3:0x9999", 0),
        Gpu("intel", "Gaudi3", 128 << 10),
    )
    assert cards.visible([0, 2]) == {"HABANA_VISIBLE_DEVICES": "2,10"}
    assert cards.visible([]) == {"HABANA_VISIBLE_DEVICES": "void"}
    assert cards.grant([2]).nodes == ("/dev/accel/accel10", "/dev/accel/accel_controlD10")
    assert cards.grant([2]).env == {"HABANA_VISIBLE_DEVICES": "10"}, "Habana's runtime counts the host's"
    assert cards.grant([]).env == {"HABANA_VISIBLE_DEVICES": "void"}


def test_tpu_chips_are_found_behind_either_driver_and_googles_other_devices_are_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.device("0000:00:03.0", "0x1ae0", "0x0042", "0x020000")
    machine.device("0000:00:04.0", "0x1ae0", "0x001f", "0x010802")
    machine.tpu(0)
    machine.tpu(1, "0x1234")
    machine.tpu(2, "0x005e", vfio=False)
    cards = Google(tmp_path).cards()
    assert [card.gpu for card in cards] == [
        Gpu("google", "v5litepod", 16384),
        Gpu("google", "0x1ae0:0x1234", 0),
        Gpu("google", "v4", 32768),
    ]
    assert [card.nodes for card in cards] == [
        ("/dev/vfio/vfio", "/dev/vfio/0"),
        ("/dev/vfio/vfio", "/dev/vfio/1"),
        ("/dev/accel2",),
    ]


def test_a_chip_without_a_device_file_is_not_to_be_had(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.tpu(0)
    machine.tpu(1)
    (tmp_path / "dev/vfio/0").unlink()
    assert [card.number for card in Google(tmp_path).cards()] == [1]


def test_a_process_with_some_of_the_chips_does_not_wait_for_the_others(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for number in range(4):
        machine.tpu(number)
    cards = all_of(Google(tmp_path))
    assert cards.visible([2, 3]) == {
        "TPU_VISIBLE_CHIPS": "2,3",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,2,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }
    assert cards.visible([0, 1, 2, 3]) == {"TPU_VISIBLE_CHIPS": "0,1,2,3"}
    grant = cards.grant([1])
    assert (grant.nodes, grant.locks_memory) == (("/dev/vfio/vfio", "/dev/vfio/1"), True)
    assert not cards.grant([]).locks_memory


def test_without_cards_there_are_none(tmp_path: Path) -> None:
    assert [vendor.cards() for vendor in (IntelGraphics(tmp_path), Gaudi(tmp_path), Google(tmp_path))] == [[], [], []]
