"""What a driver is: five verbs. Plain blocking code with time-outs; the engine runs it in threads."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from dstack.domain.offers import Offer


@dataclass(frozen=True, slots=True)
class Machine:
    """What a backend has: known by its own id and by the key it was launched with."""

    id: str
    key: str
    hostname: str | None
    """Where it is reached; None while it has no address yet."""


class Backend(ABC):
    """A configured account at a cloud, a cluster, SSH hosts, or this machine."""

    offers_fresh_for = timedelta(minutes=1)
    """How long what it offers is remembered."""

    lists_exactly = False
    """Whether what it lists is true at that very moment. A cloud lists late what has begun and what has ended."""

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
            NoCapacityError: there is none left; nothing was created.
            BackendUnavailable: no answer; something may have been created; asked again later.
            BackendError: anything else; something may have been created.
        """

    @abstractmethod
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        """The machine with this key, or all that carry a key of ours.

        A driver marks what it creates with this installation's tag and lists nothing else, so that two servers on one
        account leave each other's machines alone.
        """

    @abstractmethod
    def terminate(self, key: str, keep: str | None = None) -> bool:
        """Ask for the end of every machine of this key but the one with the id `keep`.

        True once all of them are gone for good; called again until then.
        """
