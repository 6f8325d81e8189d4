"""A cloud of tests: machines of one size, which are nothing but names. Its driver is loaded as all drivers are."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dstack.backends import Drivers, load
from dstack.backends.base import Address, Backend, LaunchRequest, Machine, MachineState
from dstack.domain.offers import Offer
from dstack.errors import BackendInvalidCredentialsError, BackendUnavailable
from dstack.protocol.agent import HostResources
from dstack.spec.backend_config import BackendConfig
from dstack.spec.base import Spec

TYPE = "vultr"
GOOD = "s3cret-that-is-good"
OFFER = Offer(TYPE, "eu", "small", HostResources(4, 16384, 102_400), price=0.1)


class VaporCreds(Spec):
    """The key of an account."""

    type: Literal["api_key"]
    api_key: str


class VaporConfig(BackendConfig):
    """The configuration of an account."""

    type: Literal["vultr"]
    creds: VaporCreds
    regions: list[str] = ["eu"]


class Vapor(Backend):
    """An account at the cloud."""

    Config = VaporConfig
    machines: set[str] = set()
    """The keys of all machines of all accounts."""
    may_answer = threading.Event()
    may_answer.set()
    """Whether calls return."""

    def __init__(self, data_dir: Path, config: BackendConfig | None = None) -> None:
        assert isinstance(config, VaporConfig)
        self._config = config

    def check(self) -> None:
        self._answer()

    def offers(self) -> Sequence[Offer]:
        self._answer()
        return [OFFER]

    def launch(self, request: LaunchRequest) -> Machine:
        self._answer()
        self.machines.add(request.key)
        return machine_of(request.key)

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        self._answer()
        return [machine_of(one) for one in sorted(self.machines) if key in (None, one)]

    def terminate(self, key: str, keep: str | None = None) -> bool:
        self._answer()
        self.machines.discard(key)
        return True

    def _answer(self) -> None:
        if not self.may_answer.is_set():
            raise BackendUnavailable("the cloud does not answer")
        if self._config.creds.api_key != GOOD:
            raise BackendInvalidCredentialsError("the cloud does not know this key", field="creds.api_key")


def machine_of(key: str) -> Machine:
    """A machine that runs."""
    return Machine(key, key, MachineState.RUNNING, Address("10.0.0.1"))


def config_of(api_key: str = GOOD) -> dict[str, object]:
    """The configuration of an account, as a user writes it."""
    return {"type": TYPE, "creds": {"type": "api_key", "api_key": api_key}}


def drivers_in(folder: Path) -> Drivers:
    """The drivers of this version, and this one."""
    return Drivers(folder, lambda name: Vapor if name == TYPE else load(name), lambda: ["local", TYPE])
