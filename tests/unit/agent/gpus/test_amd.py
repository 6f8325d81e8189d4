"""AMD's cards by the kernel's files, and how jobs get them."""

from pathlib import Path

from dstack.agent.gpus.amd import Amd
from dstack.agent.gpus.cards import Cards
from dstack.protocol.agent import Gpu
from tests.unit.agent.gpus.trees import Machine

MI300X = Gpu("amd", "Instinct MI300X", 192 << 10)


def all_of(vendor: Amd) -> Cards:
    return Cards(tuple((vendor, card) for card in vendor.cards()))


def two_cards(root: Path) -> Amd:
    machine = Machine(root)
    machine.kfd_node(0, render=0, simd_count=0)
    # In the order of the topology, which is that of ROCm, and not of the names.
    machine.amd(10, "0000:05:00.0", 128)
    machine.amd(2, "0000:26:00.0", 136)
    return Amd(root)


def test_cards_are_known_by_the_name_that_they_tell_or_by_their_model_or_by_their_numbers(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.amd(1, "0000:05:00.0", 128, "0x740f", product_name="AMD Instinct MI210 OAM")
    machine.amd(2, "0000:06:00.0", 129, product_name="")
    machine.amd(3, "0000:07:00.0", 130, "0xbeef")
    names = [card.gpu.name for card in Amd(tmp_path).cards()]
    assert names == ["Instinct MI210 OAM", "Instinct MI300X", "0x1002:0xbeef"]


def test_the_order_is_that_of_rocm(tmp_path: Path) -> None:
    cards = two_cards(tmp_path).cards()
    assert [(card.gpu, card.number, card.nodes) for card in cards] == [
        (MI300X, 0, ("/dev/kfd", "/dev/dri/renderD136")),
        (MI300X, 1, ("/dev/kfd", "/dev/dri/renderD128")),
    ]


def test_a_card_tells_how_busy_it_is(tmp_path: Path) -> None:
    vendor = two_cards(tmp_path)
    assert vendor.read(vendor.cards()[0]) == (42, 3072)
    (tmp_path / "sys/class/drm/renderD136/device/gpu_busy_percent").unlink()
    assert vendor.read(vendor.cards()[0]) == (None, 3072)


def test_a_card_that_cannot_compute_or_is_anothers_is_none_of_ours(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.graphics("0000:0a:00.0", 130, "0x1002", "0x73df", mem_info_vram_total=str(12 << 30))
    machine.amd(1, "0000:05:00.0", 128)
    machine.amd(2, "0000:06:00.0", 129)
    (tmp_path / "dev/dri/renderD128").unlink()
    cards = Amd(tmp_path).cards()
    assert [(card.number, card.nodes[-1]) for card in cards] == [(1, "/dev/dri/renderD129")]


def test_without_cards_there_are_none(tmp_path: Path) -> None:
    assert Amd(tmp_path).cards() == []
    Machine(tmp_path).kfd_node(0, render=0, simd_count=0)
    assert Amd(tmp_path).cards() == []


def test_a_process_sees_its_own_cards_alone(tmp_path: Path) -> None:
    cards = all_of(two_cards(tmp_path))
    assert cards.visible([1]) == {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}
    assert cards.visible([]) == {"ROCR_VISIBLE_DEVICES": ""}


def test_a_container_is_given_the_files_of_its_cards_and_of_no_others_and_the_groups_that_may_open_them(
    tmp_path: Path,
) -> None:
    cards = all_of(two_cards(tmp_path))
    grant = cards.grant([1])
    assert grant.nodes == ("/dev/kfd", "/dev/dri/renderD128")
    assert grant.groups == ((tmp_path / "dev/kfd").stat().st_gid,)
    assert grant.env == {"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "0"}
    assert cards.grant([0, 1]).nodes == ("/dev/kfd", "/dev/dri/renderD136", "/dev/dri/renderD128")
    assert cards.grant([]).nodes == ()


def test_a_privileged_container_counts_all_cards_of_the_host(tmp_path: Path) -> None:
    cards = all_of(two_cards(tmp_path))
    assert cards.grant([1], privileged=True).env["ROCR_VISIBLE_DEVICES"] == "1"
    assert cards.grant([], privileged=True).env == {"ROCR_VISIBLE_DEVICES": ""}
