"""The cards of this very host: looked for when asked, and remembered, so that a number goes on meaning one card."""

import logging
import threading
from functools import partial
from pathlib import Path

from dstack.agent.gpus.amd import Amd
from dstack.agent.gpus.asking import Asking
from dstack.agent.gpus.cards import Card, Cards, Reading, Vendor
from dstack.agent.gpus.intel import Gaudi, IntelGraphics
from dstack.agent.gpus.nvidia import Nvidia
from dstack.agent.gpus.places import GONE, Place, arrange, from_json, places_of, to_json
from dstack.agent.gpus.tpu import Google
from dstack.agent.paths import read_json, write_json
from dstack.protocol.agent import Gpu

log = logging.getLogger(__name__)

DETECTION_TIMEOUT_S = 20.0
"""A server waits for 30 s to be welcomed. Waking up eight cards that sleep takes about ten."""
READING_TIMEOUT_S = 2.0


NOT_TOLD: Reading = (None, None)


class Finder:
    """Looks for cards of all kinds."""

    def __init__(self, *vendors: Vendor) -> None:
        self._asking = {vendor: Asking(type(vendor).__name__) for vendor in (*vendors, GONE)}
        self._cards: Cards | None = None
        self._looking = threading.Lock()
        self._places: list[Place] = []
        self._file: Path | None = None

    def keep_places(self, file: Path, *, hold: bool) -> None:
        """Write down which card has which number, from now on.

        Args:
            hold: whether jobs of an earlier agent may have cards: the numbers written down then go on meaning the same
                ones, whatever has become of the others. Otherwise what was written down is removed at once: it must
                not be held later, should there be no room on the disk for what is true now.
        """
        with self._looking:
            self._file, self._cards, self._places = file, None, []
            try:
                if hold:
                    self._places = read_json(file, from_json) or []
                else:
                    file.unlink(missing_ok=True)
            except OSError as error:
                log.error("The numbers of the GPUs are no longer known: %s", error)

    def look(self) -> Cards:
        """The cards that are there now. Never raises; blocks for seconds where a driver is slow."""
        with self._looking:
            none: list[Card] = []
            found = {
                vendor: asking.ask(vendor.cards, none, timeout_s=DETECTION_TIMEOUT_S)
                for vendor, asking in self._asking.items()
            }
            flat = [(vendor, card) for vendor, cards in found.items() for card in cards]
            self._cards = Cards(arrange(self._places, flat))
            if self._file is not None:
                self._places = places_of(self._cards.found)
                self._write_down(self._file)
            return self._cards

    def _write_down(self, file: Path) -> None:
        try:
            write_json(file, to_json(self._places), durable=True)
        except OSError as error:  # it is needed only once a card fails; and what is there is right, if not all
            log.warning("Which card has which number is not written down: %s", error)

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
keep_places = _HERE.keep_places


def detect_gpus() -> tuple[Gpu, ...]:
    """The cards of this host; none where no driver answers in time. Blocks, for seconds where one is slow."""
    return _HERE.look().gpus
