"""A made-up cloud: machines exist until their end is confirmed, and every answer may lie as those of clouds do."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from dstack.backends import Drivers
from dstack.backends.base import Abilities, Address, Backend, LaunchRequest, Machine, MachineState
from dstack.domain.offers import Offer
from dstack.errors import BackendError, BackendInvalidCredentialsError, BackendUnavailable, NoCapacityError
from dstack.testing.faults import (
    EventualConsistency,
    FailedBoots,
    HangingLaunches,
    LateAddresses,
    LateCreates,
    LostReplies,
    RefusedEnds,
    Silence,
    SlowBoots,
    SoldOut,
    Unavailable,
)
from dstack.testing.hosts import Host
from dstack.testing.nature import Nature, Spells
from dstack.testing.time import Hangs

BOOT_S = 30.0
"""How long a machine takes until its agent answers, at most, where nothing is wrong."""
FAILS_WITHIN_S = 60.0
PAUSE_S = 1.0
"""A launch that hangs returns so long after the end of its reason."""
NEVER_S = float("inf")
KEY_BAD = "the key is wrong"


@dataclass(frozen=True, slots=True)
class _Life:
    """The life of a machine, as far as it is known at its birth; in virtual seconds."""

    born_at_s: float
    address_at_s: float
    fails_at_s: float = NEVER_S


@dataclass(frozen=True, slots=True)
class Account:
    """The machines of one account, by key: several drivers may use it."""

    hosts: dict[str, Host] = field(default_factory=dict)
    """Every machine that exists."""
    lives: dict[str, _Life] = field(default_factory=dict)
    """Every machine that ever was."""
    listed_until_s: dict[str, float] = field(default_factory=dict)
    """Machines that have ended and are still listed."""


class FakeCloud(Backend):
    """One cloud of a made-up world."""

    abilities = Abilities()

    def __init__(
        self,
        name: str,
        on_sale: Sequence[Offer],
        nature: Nature,
        account: Account | None = None,
        *,
        has_good_key: bool = True,
    ) -> None:
        self.name = name
        self.launches = 0
        self._looked_up_at_s: dict[str, float] = {}
        """When a machine was last asked for by its key, answered or not."""
        self._hangs_until_s: dict[str, float] = {}
        """The end of the time for which the launches of a key hang."""
        self._has_good_key = has_good_key
        self._on_sale = on_sale
        self._nature = nature
        self._account = account or Account()
        self._sold_out, self._unavailable, self._silent = (
            None if fault is None else Spells(nature.chance, every_s=fault.every_s, lasts_s=fault.lasts_s)
            for fault in (nature.find(SoldOut), nature.find(Unavailable), nature.find(Silence))
        )

    @property
    def hosts(self) -> dict[str, Host]:
        """Every machine that exists, by key."""
        return self._account.hosts

    def check(self) -> None:
        """The credentials are good, unless it was made with bad ones."""
        if not self._has_good_key:
            raise BackendInvalidCredentialsError(f"The cloud `{self.name}` refuses the credentials: {KEY_BAD}")
        self._answer_at_all()

    def offers(self) -> Sequence[Offer]:
        """What is on sale."""
        self._answer_at_all()
        return self._on_sale

    def sell(self, on_sale: Sequence[Offer]) -> None:
        """From now on something else is on sale; the machines that exist stay as they are."""
        self._on_sale = on_sale

    def launch(self, request: LaunchRequest) -> Machine:
        """Start a machine, unless there is one of this key. A launch in a silent spell is made after it."""
        key = request.key
        self._hang(key)
        self._answer_at_all()
        if key not in self.hosts:
            self._create_or_fail(key, request.offer)
            if self._nature.happens(LostReplies):
                raise BackendUnavailable("The reply was lost")
        return self._machine(key)

    def _hang(self, key: str) -> None:
        hanging = self._nature.find(HangingLaunches)
        if hanging is not None and hanging.only in (None, self.name) and key not in self._hangs_until_s:
            hangs = self._nature.happens(HangingLaunches)
            self._hangs_until_s[key] = _now_s() + (self._nature.within(hanging.at_most_s) if hangs else 0.0)
        left_s = self._hangs_until_s.get(key, 0.0) - _now_s()
        if self._silent is not None and self._silent.is_on(_now_s()):
            left_s = max(left_s, self._silent.left_s(_now_s()))
        if left_s > 0:
            raise Hangs(left_s + PAUSE_S)

    def _create_or_fail(self, key: str, offer: Offer) -> None:
        wanted = replace(offer, backend_id=self.name, backend_name="")  # its backend may be a row
        if wanted.name not in {one.name for one in self._on_sale}:
            raise NoCapacityError(f"{offer.instance_type} is not on sale in {offer.region}")
        if self._sold_out is not None and self._sold_out.is_on(_now_s()):
            raise NoCapacityError(f"{offer.instance_type} is sold out in {offer.region}")
        late = self._nature.find(LateCreates)
        if late is not None and self._nature.happens(LateCreates):
            after_s = self._nature.within(late.within_s)
            asyncio.get_running_loop().call_later(after_s, self._create, key, offer)
            raise BackendUnavailable("The call timed out")
        self._create(key, offer)

    def _create(self, key: str, offer: Offer) -> None:
        if key not in self.hosts:
            slow, late = self._nature.find(SlowBoots), self._nature.find(LateAddresses)
            boot_s = self._nature.within(BOOT_S if slow is None else slow.at_most_s)
            self.launches += 1
            address_at_s = _now_s() if late is None else _now_s() + self._nature.within(late.at_most_s)
            fails = self._nature.happens(FailedBoots)
            fails_at_s = _now_s() + self._nature.within(FAILS_WITHIN_S) if fails else NEVER_S
            host = Host(key, offer, NEVER_S if fails else boot_s, self._nature)
            self.take_in(host, address_at_s, fails_at_s)

    def take_in(self, host: Host, address_at_s: float = 0.0, fails_at_s: float = NEVER_S) -> None:
        """Have a machine: one that is launched now, or that exists when a world begins."""
        self._account.lives[host.key] = _Life(_now_s(), address_at_s, fails_at_s)
        self.hosts[host.key] = host
        self._nature.observer.machine_came(self.name, host.key)

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        """The machine of this key, or all; as the cloud knows them by now."""
        if key is not None:
            self._looked_up_at_s[key] = _now_s()
        self._answer_at_all()
        listed = [known for known in self.hosts if self.is_listed(known)]
        listed += [known for known, until_s in self._account.listed_until_s.items() if until_s > _now_s()]
        return [self._machine(known) for known in listed if key in (None, known)]

    def is_listed(self, key: str) -> bool:
        """Whether the cloud admits by now that it has a machine."""
        return key in self.hosts and self._account.lives[key].born_at_s + self._lag_s() <= _now_s()

    def has_address(self, key: str) -> bool:
        """Whether a machine has an address by now."""
        return self._account.lives[key].address_at_s <= _now_s()

    def unasked_s(self, key: str) -> float:
        """For how long a machine has had an address that nobody has asked for; 0 where it never was."""
        life = self._account.lives.get(key)
        return 0.0 if life is None else _now_s() - max(life.address_at_s, self._looked_up_at_s.get(key, 0.0))

    def _lag_s(self) -> float:
        fault = self._nature.find(EventualConsistency)
        return 0.0 if fault is None else fault.lag_s

    def terminate(self, key: str, keep: str | None = None) -> bool:
        """End a machine; sometimes only when asked again."""
        self._answer_at_all()
        if key in self.hosts and key != keep:
            if self._nature.happens(RefusedEnds):
                if self._nature.happens(RefusedEnds):
                    raise BackendError("The machine is locked by another operation")
                return False
            self.end(key)
            if self._nature.happens(LostReplies):
                raise BackendUnavailable("The reply was lost")
        return True

    def end(self, key: str) -> None:
        """A machine is gone, whoever wanted that."""
        self._account.listed_until_s[key] = _now_s() + self._lag_s()
        self.hosts.pop(key).vanish()
        self._nature.observer.machine_went(self.name, key)

    def _machine(self, key: str) -> Machine:
        """As the cloud lists it: an ended machine looks as it did before, for a while."""
        address = Address(f"10.0.0.{int(key) % 250 + 1}", user="ubuntu") if self.has_address(key) else None
        if self._account.lives[key].fails_at_s <= _now_s():
            return Machine(key, key, MachineState.FAILED, address, "the disk could not be made from its image")
        host = self.hosts.get(key)
        state = MachineState.RUNNING if host is None or host.is_up else MachineState.PENDING
        return Machine(key, key, state, address)

    def _answer_at_all(self) -> None:
        if self._silent is not None and self._silent.is_on(_now_s()):
            self._never_answer()
        if self._unavailable is not None and self._unavailable.is_on(_now_s()):
            raise BackendUnavailable("The cloud does not answer just now")

    def _never_answer(self) -> NoReturn:
        raise Hangs


class Clouds(dict[str, FakeCloud]):
    """The clouds of a world, by name."""

    def is_listed(self, key: str) -> bool:
        """Whether one of them admits to have the machine."""
        return any(cloud.is_listed(key) for cloud in self.values())

    def find(self, key: str) -> FakeCloud | None:
        """The cloud in which a machine exists."""
        return next((cloud for cloud in self.values() if key in cloud.hosts), None)

    def unasked_s(self, key: str) -> float:
        """For how long a machine has had an address that nobody has asked for."""
        return max((cloud.unasked_s(key) for cloud in self.values()), default=0.0)

    def hosts(self) -> list[Host]:
        """Every machine that exists."""
        return [host for cloud in self.values() for host in cloud.hosts.values()]


class MadeUpDrivers(Drivers):
    """Makes the clouds of a world out of rows: a row of a type stands for the cloud of that name."""

    def __init__(self, clouds: Clouds) -> None:
        self._clouds = clouds

    def checked(self, config: object) -> dict[str, Any]:
        """Return a configuration as it stands."""
        assert isinstance(config, Mapping)
        return dict(config)

    def make(self, config: Mapping[str, Any]) -> Backend:
        """Return a cloud, which exists before its row does and after."""
        return self._clouds[config["type"]]


def _now_s() -> float:
    return asyncio.get_running_loop().time()
