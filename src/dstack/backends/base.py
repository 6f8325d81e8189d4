"""The interface of a driver: five verbs, `close`, and what the driver declares about itself.

A driver is plain blocking code with time-outs; the engine runs it in threads. Each verb may be repeated after a crash
or a lost reply, and a repetition changes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dstack.domain.machines import Address, Machine, MachineState
from dstack.domain.offers import Offer

if TYPE_CHECKING:  # slow to import, and a server without clouds does not need it
    from dstack.spec.backend_config import BackendConfig

__all__ = ["Abilities", "Address", "Backend", "LaunchRequest", "Machine", "MachineState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """The properties of a backend that the engine acts on."""

    offers_fresh_for: timedelta = timedelta(minutes=1)
    """The time for which its offers are cached."""
    lists_cheaply: bool = False
    """Whether a list of its offers takes a moment and no network: a call may wait for it."""
    lists_exactly: bool = False
    """Whether its list is exact. A cloud lists new and ended machines late."""
    boot_timeout: timedelta = timedelta(minutes=10)
    """The longest time from the launch of a machine until its agent answers."""
    locate_every: timedelta | None = timedelta(seconds=10)
    """The pace at which a booting machine is looked up; None where its launch returns all there is to learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """The machine that a driver is to start."""

    key: str
    """The id of the instance; a driver marks the machine with it, and finds it by it."""
    name: str
    """The name of the machine in the backend's console: letters, digits and dashes, at most 60 characters."""
    offer: Offer
    tags: Mapping[str, str] = field(default_factory=dict)
    """Marks for people and their bills, where the backend has such."""


class Backend(ABC):
    """A configured account at a cloud, a cluster, SSH hosts, or this machine."""

    abilities = Abilities()

    Config: "ClassVar[type[BackendConfig] | None]" = None
    """The model of its configuration; None for a backend that takes none and is there by the server's settings."""

    @abstractmethod
    def __init__(self, data_dir: Path, config: "BackendConfig | None" = None) -> None:
        """Make a driver; calls nothing.

        Args:
            data_dir: where the backend may keep files of its own.
            config: an object of `Config`.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise `BackendInvalidCredentialsError` unless the backend can be used as configured.

        The error names the wrong `field`, such as `creds.secret_key`.
        """

    @abstractmethod
    def offers(self) -> Sequence[Offer]:
        """Return everything on sale now."""

    @abstractmethod
    def launch(self, request: LaunchRequest) -> Machine:
        """Start a machine, or return the one already started with this key. Does not wait until it runs.

        Raises:
            NoCapacityError: the offer is sold out; nothing was created.
            BackendUnavailable: no answer; something may have been created; asked again later.
            BackendError: anything else; something may have been created.
        """

    @abstractmethod
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        """Return the machine with this key, or all that carry a key of ours.

        A driver marks its machines with this installation's tag and lists no others. So two servers on one account do
        not touch each other's machines. A machine that has ended may be listed for a while, as `ENDED`.
        """

    @abstractmethod
    def terminate(self, key: str, keep: str | None = None) -> bool:
        """Ask for the end of every machine of this key but the one with the id `keep`.

        Return True once all of them have ended for good, or were never there; the engine calls again until then.
        """

    def close(self) -> None:  # noqa: B027 - many drivers have nothing to release
        """Release connections and files of this object; by default, nothing. Machines go on.

        It may be called again, after calls that failed, and while a call still hangs. No call begins after it.
        """
