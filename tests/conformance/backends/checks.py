"""What every driver does. A check fails by `AssertionError`, and applies where the driver has what it needs."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

from dstack.backends.base import Backend, Machine, MachineState
from dstack.domain.offers import Offer
from dstack.errors import (
    BackendError,
    BackendInvalidCredentialsError,
    BackendUnavailable,
    DstackError,
    NoCapacityError,
)
from tests.conformance.backends.subject import LISTED_WITHIN_S, Subject

Check: TypeAlias = Callable[[Subject], None]
CHECKS: dict[str, tuple[Check, Callable[[Subject], bool]]] = {}
"""Each check by its name, with the subjects that it applies to."""


def _every(subject: Subject) -> bool:
    return True


def _has_many(subject: Subject) -> bool:
    """Whether several machines may exist at once."""
    return subject.machines_max != 1


def check(applies: Callable[[Subject], bool] = _every) -> Callable[[Check], Check]:
    """Add a check to the suite."""

    def add(function: Check) -> Check:
        CHECKS[function.__name__] = function, applies
        return function

    return add


def raised(call: Callable[[], object]) -> DstackError:
    """Return the error of a call, which must be one of ours."""
    try:
        call()
    except DstackError as error:
        return error
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} is not an error of dstack") from error
    raise AssertionError("the call raised nothing")


@check()
def abilities_make_sense(subject: Subject) -> None:
    abilities = subject.make().abilities
    assert abilities.offers_fresh_for > timedelta(0) and abilities.boot_timeout > timedelta(0)
    assert abilities.locate_every is None or timedelta(seconds=1) <= abilities.locate_every < abilities.boot_timeout


@check()
def offers_are_well_formed(subject: Subject) -> None:
    offers = subject.make().offers()
    assert offers and len({offer.name for offer in offers}) == len(offers), "each offer has a name of its own"
    for offer in offers:
        assert offer.backend == subject.name and offer.region and offer.instance_type, offer
        assert math.isfinite(offer.price) and offer.price >= 0, offer
        assert offer.machines_max is None or offer.machines_max > 0, offer
        has = offer.resources
        assert has.cpus > 0 and has.memory_mib > 0 and has.disk_mib >= 0, offer
        assert all(gpu.name and gpu.vendor and gpu.memory_mib > 0 for gpu in has.gpus), offer


@check()
def good_credentials_pass(subject: Subject) -> None:
    subject.make().check()


@check(lambda subject: subject.unauthorized is not None)
def bad_credentials_are_reported(subject: Subject) -> None:
    assert subject.unauthorized is not None
    error = raised(subject.unauthorized().check)
    assert isinstance(error, BackendInvalidCredentialsError) and error.message, error


@check()
def a_launched_machine_carries_its_key(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    machine = driver.launch(request)
    assert machine.key == request.key and machine.id
    assert not machine.state.is_over, machine


@check()
def a_launch_that_is_repeated_makes_one_machine(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    first, second = driver.launch(request), driver.launch(request)
    assert first.id == second.id and subject.exist() == 1


@check()
def a_launch_whose_reply_was_lost_is_found_by_the_next_server(subject: Subject) -> None:
    request = subject.request(subject.make())
    lost, found = subject.make().launch(request), subject.make().launch(request)
    assert lost.id == found.id and subject.exist() == 1


@check()
def launches_at_once_with_one_key_make_one_machine(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    machines = subject.at_once([lambda: driver.launch(request)] * 4)
    assert len({machine.id for machine in machines}) == 1 and subject.exist() == 1


@check()
def a_machine_is_found_by_its_key(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    machine = driver.launch(request)
    found = subject.listed(driver, request.key, are=1)
    assert [(one.id, one.key) for one in found] == [(machine.id, request.key)]
    assert driver.look_up("999999") == [], "no machine has this key"


@check(_has_many)
def each_machine_is_listed(subject: Subject) -> None:
    driver = subject.make()
    launched = {driver.launch(subject.request(driver, number)).id for number in (1, 2, 3)}
    assert {machine.id for machine in subject.listed(driver, None, are=3)} == launched
    assert [one.key for one in subject.listed(driver, "000002", are=1)] == ["000002"]


@check(lambda subject: subject.make().abilities.lists_exactly)
def an_exact_list_is_true_at_once(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    for _ in range(2):
        driver.launch(request)
        assert [one.key for one in driver.look_up()] == [request.key]
        subject.end(driver, request.key)
        assert driver.look_up() == []


@check()
def machines_of_another_installation_are_left_alone(subject: Subject) -> None:
    driver, other = subject.make(), subject.elsewhere()
    theirs = other.launch(subject.request(other, 7))
    assert len(subject.listed(other, None, are=1)) == 1
    assert theirs.key not in {machine.key for machine in driver.look_up()}
    assert driver.look_up(theirs.key) == []
    subject.end(driver, theirs.key)
    assert [one.id for one in subject.listed(other, theirs.key, are=1)] == [theirs.id]


@check()
def an_address_arrives_before_the_boot_timeout(subject: Subject) -> None:
    driver = subject.make()
    request, abilities = subject.request(driver), driver.abilities
    machine = driver.launch(request)
    if abilities.locate_every is not None:
        machine = _located(subject, driver, machine)
    address = machine.address
    assert address is not None and address.host.strip() and address.user.strip(), machine
    assert 0 < address.port < 65536 and machine.state in (MachineState.PENDING, MachineState.RUNNING)


def _located(subject: Subject, driver: Backend, machine: Machine) -> Machine:
    """Return a machine once it has its address, or its time is over."""
    assert driver.abilities.locate_every is not None
    for _ in range(driver.abilities.boot_timeout // driver.abilities.locate_every):
        if machine.address is not None:
            return machine
        subject.wait(driver.abilities.locate_every.total_seconds())
        found = driver.look_up(machine.key)
        machine = found[0] if found else machine
    return machine


@check(lambda subject: subject.failing is not None)
def a_machine_that_fails_to_boot_says_why(subject: Subject) -> None:
    assert subject.failing is not None
    driver = subject.failing()
    machine = driver.launch(subject.request(driver))
    for _ in range(60):
        if machine.state is MachineState.FAILED:
            break
        subject.wait(10.0)
        machine = (driver.look_up(machine.key) or [machine])[0]
    assert machine.state is MachineState.FAILED and machine.detail, machine
    subject.end(driver, machine.key)
    assert subject.exist() == 0, "a failed machine costs money until its end"


@check()
def an_end_is_confirmed_once_the_machine_is_gone(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    subject.boot(driver.launch(request))
    subject.end(driver, request.key)
    assert subject.exist() == 0
    assert subject.listed(driver, request.key, are=0) == []


@check()
def an_end_may_be_asked_for_again(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    driver.launch(request)
    subject.end(driver, request.key)
    subject.end(subject.make(), request.key)
    assert driver.terminate("999999"), "no machine has this key"


@check(_has_many)
def an_end_leaves_other_machines_alone(subject: Subject) -> None:
    driver = subject.make()
    for number in (1, 2):
        driver.launch(subject.request(driver, number))
    subject.end(driver, "000001")
    assert subject.exist() == 1
    assert [one.key for one in subject.listed(driver, "000002", are=1)] == ["000002"]


@check()
def the_machine_that_is_kept_goes_on(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    machine = driver.launch(request)
    subject.boot(machine)
    subject.end(driver, request.key, keep=machine.id)
    assert subject.exist() == 1 and [one.id for one in subject.listed(driver, request.key, are=1)] == [machine.id]


@check()
def a_key_may_be_used_again_after_the_end(subject: Subject) -> None:
    driver = subject.make()
    request = subject.request(driver)
    for _ in range(2):
        driver.launch(request)
        assert subject.exist() == 1
        subject.end(driver, request.key)
        subject.wait(LISTED_WITHIN_S)
    assert subject.exist() == 0


@check(lambda subject: subject.sold_out is not None)
def without_capacity_nothing_is_created(subject: Subject) -> None:
    assert subject.sold_out is not None
    driver = subject.sold_out()
    error = raised(lambda: driver.launch(subject.request(driver)))
    assert isinstance(error, NoCapacityError) and error.message, error
    assert subject.exist() == 0 and driver.look_up() == []


@check(lambda subject: not _has_many(subject))
def a_launch_beside_the_only_machine_waits_and_creates_nothing(subject: Subject) -> None:
    driver = subject.make()
    driver.launch(subject.request(driver, 1))
    error = raised(lambda: driver.launch(subject.request(driver, 2)))
    assert isinstance(error, BackendUnavailable) and error.retryable
    assert subject.exist() == 1


@check(lambda subject: subject.unreachable is not None)
def a_backend_that_does_not_answer_is_asked_again(subject: Subject) -> None:
    assert subject.unreachable is not None
    request = subject.request(subject.make())
    driver = subject.unreachable()
    calls: list[Callable[[], object]] = [
        driver.check,
        driver.offers,
        lambda: driver.launch(request),
        driver.look_up,
        lambda: driver.look_up("000001"),
        lambda: driver.terminate("000001"),
    ]
    for call in calls:
        error = raised(call)
        assert isinstance(error, BackendUnavailable) and error.retryable and error.message, error


@check()
def a_driver_may_be_closed_again(subject: Subject) -> None:
    driver = subject.make()
    machine = driver.launch(subject.request(driver))
    for _ in range(2):
        driver.close()
    assert [one.id for one in subject.listed(subject.make(), machine.key, are=1)] == [machine.id], "machines go on"


@check(lambda subject: subject.unreachable is not None)
def a_driver_may_be_closed_after_calls_that_failed(subject: Subject) -> None:
    assert subject.unreachable is not None
    driver = subject.unreachable()
    for call in (driver.check, driver.look_up):
        raised(call)
    for _ in range(2):
        driver.close()


@check(_has_many)
def an_offer_that_does_not_exist_is_refused(subject: Subject) -> None:
    driver = subject.make()
    unknown: Offer = replace(driver.offers()[0], instance_type="no-such-type")
    error = raised(lambda: driver.launch(subject.request(driver, offer=unknown)))
    assert isinstance(error, BackendError | NoCapacityError) and re.search("no-such-type", error.message), error
    assert subject.exist() == 0
