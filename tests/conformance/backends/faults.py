"""Mistakes that a driver could have, one or more for each check: a wrapper around a driver that passes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar, TypeAlias

from dstack.backends.base import Abilities, Backend, LaunchRequest, Machine, MachineState
from dstack.domain.offers import Offer
from dstack.errors import BackendError, BackendUnavailable, NoCapacityError

Plant: TypeAlias = type["Faulty"]
PLANTS: dict[str, tuple[Plant, ...]] = {}
"""By the name of the check that has to fail."""


class Faulty(Backend):
    """Does as the driver inside does; a fault overrides one verb."""

    made: ClassVar[list["Faulty"]] = []
    """All that one test has made."""
    asks_max: ClassVar[int | None] = None

    def __init__(self, inside: Backend) -> None:
        self.inside = inside
        self.abilities = inside.abilities
        self.calls = 0
        self.made.append(self)

    def check(self) -> None:
        self.inside.check()

    def offers(self) -> Sequence[Offer]:
        return self.inside.offers()

    def launch(self, request: LaunchRequest) -> Machine:
        return self.inside.launch(request)

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return self.inside.look_up(key)

    def terminate(self, key: str, keep: str | None = None) -> bool:
        return self.inside.terminate(key, keep)

    def close(self) -> None:
        self.inside.close()


def breaks(*checks: str) -> Callable[[Plant], Plant]:
    """Name the checks that have to notice a fault."""

    def add(fault: Plant) -> Plant:
        for check in checks:
            PLANTS[check] = (*PLANTS.get(check, ()), fault)
        return fault

    return add


@breaks("abilities_make_sense")
class ImpatientDriver(Faulty):
    def __init__(self, inside: Backend) -> None:
        super().__init__(inside)
        self.abilities = Abilities(boot_timeout=timedelta(0))


@breaks("offers_are_well_formed")
class OffersTwice(Faulty):
    def offers(self) -> Sequence[Offer]:
        return [*self.inside.offers()] * 2


@breaks("offers_are_well_formed")
class PaysToRent(Faulty):
    def offers(self) -> Sequence[Offer]:
        return [replace(offer, price=-0.01) for offer in self.inside.offers()]


@breaks("offers_are_well_formed")
class SellsForAnother(Faulty):
    def offers(self) -> Sequence[Offer]:
        return [replace(offer, backend="gcp") for offer in self.inside.offers()]


@breaks("good_credentials_pass")
class RefusesAll(Faulty):
    def check(self) -> None:
        raise BackendError("The test of the credentials has a mistake")


@breaks("bad_credentials_are_reported")
class ChecksNothing(Faulty):
    def check(self) -> None:
        """The first launch will tell."""


@breaks("a_launched_machine_carries_its_key")
class LosesTheKey(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        return replace(self.inside.launch(request), key="")


@breaks("a_launched_machine_carries_its_key")
class ReportsTheStateOfTheLast(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        return replace(self.inside.launch(request), state=MachineState.ENDED)


@breaks(
    "a_launch_that_is_repeated_makes_one_machine",
    "launches_at_once_with_one_key_make_one_machine",
)
class LaunchesEachTime(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        self.calls += 1
        return self.inside.launch(replace(request, key=f"{int(request.key) + 1000 * self.calls:06d}"))


_STARTS = itertools.count(1)


@breaks("a_launch_whose_reply_was_lost_is_found_by_the_next_server")
class RemembersInMemoryAlone(Faulty):
    def __init__(self, inside: Backend) -> None:
        super().__init__(inside)
        self.start = next(_STARTS)

    def launch(self, request: LaunchRequest) -> Machine:
        return self.inside.launch(replace(request, key=f"{int(request.key) + 1000 * self.start:06d}"))


@breaks("a_machine_is_found_by_its_key")
class FindsNothing(Faulty):
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return [] if key is not None else self.inside.look_up()


@breaks("a_machine_is_found_by_its_key")
class IgnoresTheKey(Faulty):
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return self.inside.look_up()


@breaks("each_machine_is_listed")
class ListsTheFirstPage(Faulty):
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return self.inside.look_up(key)[:1]


@breaks("an_exact_list_is_true_at_once")
class ListsWhatWas(Faulty):
    def __init__(self, inside: Backend) -> None:
        super().__init__(inside)
        self.before: Sequence[Machine] = []

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        was, self.before = self.before, self.inside.look_up(key)
        return was


@breaks("machines_of_another_installation_are_left_alone")
class ListsAllOfTheAccount(Faulty):
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return [machine for driver in self.made for machine in driver.inside.look_up(key)]


@breaks("machines_of_another_installation_are_left_alone")
class EndsAllOfTheAccount(Faulty):
    def terminate(self, key: str, keep: str | None = None) -> bool:
        return all([driver.inside.terminate(key, keep) for driver in self.made])


@breaks("an_address_arrives_before_the_boot_timeout")
class NeverHasAnAddress(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        return replace(self.inside.launch(request), address=None)

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return [replace(machine, address=None) for machine in self.inside.look_up(key)]


@breaks("a_machine_that_fails_to_boot_says_why")
class SeesNoFailure(Faulty):
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        return [replace(machine, state=MachineState.PENDING) for machine in self.inside.look_up(key)]


@breaks("a_machine_that_fails_to_boot_says_why", "an_end_is_confirmed_once_the_machine_is_gone")
@breaks("a_key_may_be_used_again_after_the_end")
class ConfirmsAtOnce(Faulty):
    def terminate(self, key: str, keep: str | None = None) -> bool:
        return True


@breaks("an_end_is_confirmed_once_the_machine_is_gone")
class NeverConfirms(Faulty):
    asks_max = 5

    def terminate(self, key: str, keep: str | None = None) -> bool:
        self.inside.terminate(key, keep)
        return False


@breaks("an_end_may_be_asked_for_again")
class FailsWhereNothingIs(Faulty):
    asks_max = 5

    def terminate(self, key: str, keep: str | None = None) -> bool:
        if not self.inside.look_up(key):
            raise BackendError("There is no such machine")
        return self.inside.terminate(key, keep)


@breaks("an_end_leaves_other_machines_alone")
class EndsThemAll(Faulty):
    def terminate(self, key: str, keep: str | None = None) -> bool:
        return all([self.inside.terminate(f"{number:06d}", keep) for number in range(1, 4)])


@breaks("the_machine_that_is_kept_goes_on")
class KeepsNothing(Faulty):
    def terminate(self, key: str, keep: str | None = None) -> bool:
        return self.inside.terminate(key)


@breaks("without_capacity_nothing_is_created")
class CreatesAllTheSame(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        return Machine("i-1", request.key, MachineState.PENDING)


@breaks("without_capacity_nothing_is_created")
class IsUnavailableWhereSoldOut(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        try:
            return self.inside.launch(request)
        except NoCapacityError as error:
            raise BackendUnavailable(error.message) from error


@breaks("a_launch_beside_the_only_machine_waits_and_creates_nothing")
class IsSoldOutWhereItMayWait(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        try:
            return self.inside.launch(request)
        except BackendUnavailable as error:
            raise NoCapacityError(error.message) from error


@breaks("a_backend_that_does_not_answer_is_asked_again")
class RaisesWhatTheNetworkRaises(Faulty):
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        try:
            return self.inside.look_up(key)
        except BackendUnavailable as error:
            raise ConnectionResetError("Connection reset by peer") from error


@breaks("a_backend_that_does_not_answer_is_asked_again")
class HasNothingWhileItIsAway(Faulty):
    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        try:
            return self.inside.look_up(key)
        except BackendUnavailable:
            return []


@breaks("an_offer_that_does_not_exist_is_refused")
class TakesAnotherOffer(Faulty):
    def launch(self, request: LaunchRequest) -> Machine:
        return self.inside.launch(replace(request, offer=self.inside.offers()[0]))


@breaks("a_driver_may_be_closed_again")
class ClosesOnce(Faulty):
    is_closed = False

    def close(self) -> None:
        if self.is_closed:
            raise BackendError("the connection is closed already")
        self.is_closed = True


@breaks("a_driver_may_be_closed_again")
class EndsItsMachines(Faulty):
    def close(self) -> None:
        for machine in self.inside.look_up():
            while not self.inside.terminate(machine.key):
                pass


@breaks("a_driver_may_be_closed_after_calls_that_failed")
class ClosesWhatItConnected(Faulty):
    is_connected = False

    def check(self) -> None:
        super().check()
        self.is_connected = True

    def close(self) -> None:
        if not self.is_connected:
            raise BackendError("there is no connection to close")
