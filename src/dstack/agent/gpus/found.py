"""The cards of this very host: looked for when asked, and remembered, so that a number goes on meaning one card."""

import threading
from functools import partial

from dstack.agent.gpus.amd import Amd
from dstack.agent.gpus.asking import Asking
from dstack.agent.gpus.cards import Card, Cards, Reading, Vendor
from dstack.agent.gpus.intel import Gaudi, IntelGraphics
from dstack.agent.gpus.nvidia import Nvidia
from dstack.agent.gpus.tpu import Google
from dstack.protocol.agent import Gpu

DETECTION_TIMEOUT_S = 20.0
"""A server waits for 30 s to be welcomed. Waking up eight cards that sleep takes about ten."""
READING_TIMEOUT_S = 2.0


NOT_TOLD: Reading = (None, None)


class Finder:
    """Looks for cards of all kinds."""

    def __init__(self, *vendors: Vendor) -> None:
        self._asking = {vendor: Asking(type(vendor).__name__) for vendor in vendors}
        self._cards: Cards | None = None
        self._looking = threading.Lock()

    def look(self) -> Cards:
        """The cards that are there now. Never raises; blocks for seconds where a driver is slow."""
        with self._looking:
            none: list[Card] = []
            found = {
                vendor: asking.ask(vendor.cards, none, timeout_s=DETECTION_TIMEOUT_S)
                for vendor, asking in self._asking.items()
            }
            self._cards = Cards(tuple((vendor, card) for vendor, cards in found.items() for card in cards))
            return self._cards

    def cards(self) -> Cards:
        """Those that were there when somebody looked last."""
        return self._cards or self.look()

    def read(self) -> list[Reading]:
        """How busy each card is. Never raises, and blocks for little longer than a card takes to answer."""
        return [
            self._asking[vendor].ask(partial(vendor.read, card), NOT_TOLD, timeout_s=READING_TIMEOUT_S)
            for vendor, card in self.cards().found
        ]


_HERE = Finder(Nvidia(), Amd(), IntelGraphics(), Gaudi(), Google())
"""One of a process: what a driver has woken up is kept, and no driver is asked by two threads at once."""

cards = _HERE.cards
read = _HERE.read


def detect_gpus() -> tuple[Gpu, ...]:
    """The cards of this host; none where no driver answers in time. Blocks, for seconds where one is slow."""
    return _HERE.look().gpus
