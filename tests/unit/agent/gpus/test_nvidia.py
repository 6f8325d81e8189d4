"""NVIDIA's cards by NVML, and how jobs get them."""

import ctypes
import os
from pathlib import Path
from typing import Any

from dstack.agent.gpus.cards import Cards
from dstack.agent.gpus.nvidia import Nvidia
from dstack.protocol.agent import Gpu
from tests.nvml import DRIVER_NOT_LOADED, FakeCard, FakeLibrary, build_library

TWO = (
    FakeCard("NVIDIA H100 80GB HBM3", "GPU-a", 81559, used_mib=1024, utilization=37, capability=(9, 0)),
    FakeCard("Tesla T4", "GPU-b", 15360, capability=(7, 5)),
)
KNOWN = [Gpu("nvidia", "H100 80GB HBM3", 81559, "9.0"), Gpu("nvidia", "Tesla T4", 15360, "7.5")]


def with_cards(*cards: FakeCard) -> Nvidia:
    return Nvidia(lambda: FakeLibrary(*cards))


def all_of(vendor: Nvidia) -> Cards:
    return Cards(tuple((vendor, card) for card in vendor.cards()))


def test_cards_are_known_by_name_memory_and_compute_capability() -> None:
    assert [card.gpu for card in with_cards(*TWO).cards()] == KNOWN


def test_a_real_library_is_read_as_the_stand_in_is(tmp_path: Path) -> None:
    library = build_library(tmp_path, TWO)
    real, stand_in = Nvidia(lambda: ctypes.CDLL(str(library))), with_cards(*TWO)
    assert real.cards() == stand_in.cards()
    assert [real.read(card) for card in real.cards()] == [(37, 1024), (0, 0)]
    assert [stand_in.read(card) for card in stand_in.cards()] == [(37, 1024), (0, 0)]


def test_without_a_driver_or_with_one_that_has_no_card_there_are_none() -> None:
    def load() -> Any:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    assert Nvidia(load).cards() == []
    assert Nvidia(lambda: FakeLibrary(init=DRIVER_NOT_LOADED)).cards() == []
    assert with_cards().cards() == []


def test_a_driver_that_comes_later_is_found_and_woken_once() -> None:
    library = FakeLibrary(*TWO, init=DRIVER_NOT_LOADED)
    vendor = Nvidia(lambda: library)
    assert vendor.cards() == []
    library.init = 0
    assert len(vendor.cards()) == len(vendor.cards()) == 2
    assert library.inits == 2


def test_a_card_that_is_lost_is_no_card_and_the_others_keep_their_numbers() -> None:
    cards = with_cards(FakeCard(is_lost=True), *TWO).cards()
    assert [(card.gpu.name, card.number) for card in cards] == [("H100 80GB HBM3", 1), ("Tesla T4", 2)]


def test_a_card_without_memory_of_its_own_has_the_hosts() -> None:
    host_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    vendor = with_cards(FakeCard("NVIDIA GB10", memory_mib=None, capability=(12, 1)))
    assert [card.gpu for card in vendor.cards()] == [Gpu("nvidia", "GB10", host_mib, "12.1")]
    assert vendor.read(vendor.cards()[0]) == (0, None)


def test_a_card_that_is_split_does_not_tell_how_busy_it_is() -> None:
    vendor = with_cards(FakeCard(utilization=None, used_mib=10))
    assert vendor.read(vendor.cards()[0]) == (None, 10)


def test_a_process_sees_its_own_cards_alone_counted_as_the_driver_counts_them() -> None:
    cards = all_of(with_cards(FakeCard(is_lost=True), *TWO))
    assert cards.visible([1]) == {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert cards.visible([1, 0])["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert cards.visible([])["CUDA_VISIBLE_DEVICES"] == ""


def test_a_container_is_given_its_cards_by_id_and_counts_what_it_has() -> None:
    grant = all_of(with_cards(*TWO)).grant([1])
    assert grant.requests == ({"DeviceIDs": ["GPU-b"], "Capabilities": [["gpu"]]},)
    assert grant.env == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-b",
        "CUDA_VISIBLE_DEVICES": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_a_container_without_cards_gets_none_even_where_nvidias_runtime_is_the_default() -> None:
    grant = all_of(with_cards(*TWO)).grant([])
    assert (grant.requests, grant.env) == ((), {"NVIDIA_VISIBLE_DEVICES": "void"})


def test_a_privileged_container_sees_all_devices_so_that_its_own_are_named() -> None:
    cards = all_of(with_cards(*TWO))
    assert cards.grant([0, 1], privileged=True).env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert cards.grant([], privileged=True).env["CUDA_VISIBLE_DEVICES"] == ""
