"""The interface of a driver: five verbs. Plain blocking code with time-outs; the engine runs it in threads."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from dstack.domain.offers import Offer


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of a backend: known by its own id and by the key of its launch."""

    id: str
    key: str
    hostname: str | None
    """Where it is reached; None while it has no address yet."""


class Backend(ABC):
    """A configured account at a cloud, a cluster, SSH hosts, or this machine."""

    offers_fresh_for = timedelta(minutes=1)
    """The time for which its offers are cached."""

    lists_cheaply = False
    """Whether a list of its offers takes a moment and no network: a call may wait for it."""

    lists_exactly = False
    """Whether its list is exact. A cloud lists new and ended machines late."""

    @abstractmethod
    def __init__(self, data_dir: Path) -> None:
        """Args: `data_dir`: where the backend may keep files of its own."""

    @abstractmethod
    def check(self) -> None:
        """Raise `BackendInvalidCredentialsError` unless the backend can be used as configured."""

    @abstractmethod
    def offers(self) -> Sequence[Offer]:
        """Everything on sale now."""

    @abstractmethod
    def launch(self, key: str, offer: Offer) -> Machine:
        """Start a machine, or return the one already started with this `key`.

        Raises:
            NoCapacityError: the offer is sold out; nothing was created.
            BackendUnavailable: no answer; something may have been created; asked again later.
            BackendError: anything else; something may have been created.
        """

    @abstractmethod
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        """The machine with this key, or all that carry a key of ours.

        A driver marks its machines with this installation's tag and lists no others. So two servers on one account do
        not touch each other's machines.
        """

    @abstractmethod
    def terminate(self, key: str, keep: str | None = None) -> bool:
        """Ask for the end of every machine of this key but the one with the id `keep`.

        Return True once all of them have ended for good; the engine calls again until then.
        """
