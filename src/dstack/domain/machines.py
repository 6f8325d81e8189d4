"""Machines as their backends have them: the values that pass between drivers and steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dstack.kit.plain import from_plain, to_plain

SSH_PORT = 22


class MachineState(StrEnum):
    """The state of a machine at its backend."""

    PENDING = "pending"
    """It is being made, or it starts."""
    RUNNING = "running"
    ENDING = "ending"
    """Its end was asked for, or its backend takes it away."""
    ENDED = "ended"
    """It no longer exists, and costs nothing."""
    FAILED = "failed"
    """It will never run. It may exist and cost money until its end is asked for."""

    @property
    def is_over(self) -> bool:
        """Whether nothing can run on the machine any more."""
        return self in (MachineState.ENDING, MachineState.ENDED, MachineState.FAILED)


@dataclass(frozen=True, slots=True)
class Address:
    """The place at which a machine is reached."""

    host: str
    """A name or an IP address, as the server reaches it."""
    port: int = SSH_PORT
    """Of its SSH server."""
    user: str = "root"
    """The user that the server logs in as."""
    internal_ip: str | None = None
    """The IP address for machines of the same network; None where they use `host`."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of a backend, by its own id and the key of its launch."""

    id: str
    key: str
    """The id of the instance that it was bought for."""
    state: MachineState
    address: Address | None = None
    """None while it has none."""
    detail: str = ""
    """The backend's words about its state, for people."""


def address_to_json(address: Address | None) -> dict[str, Any] | None:
    """Return an address as a JSON column or an outcome holds it."""
    plain: dict[str, Any] | None = None if address is None else to_plain(address)
    return plain


def address_of_json(body: Mapping[str, Any] | None) -> Address | None:
    """Return the address that `address_to_json` wrote."""
    return None if body is None else from_plain(Address, body)
