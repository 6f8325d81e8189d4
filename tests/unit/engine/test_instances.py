from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

import pytest

from dstack.domain.intents import (
    Done,
    Failed,
    Intent,
    LaunchMachine,
    LocateMachine,
    Outcome,
    Pending,
    ShutDownAgent,
    TerminateMachine,
)
from dstack.domain.machines import Address, MachineState, address_to_json
from dstack.domain.objects import Instance, Next
from dstack.engine.instances.booting import boot
from dstack.engine.instances.keeping import idle, work
from dstack.engine.instances.launching import launch
from dstack.engine.instances.terminating import ASK_AGAIN, terminate
from dstack.errors import BackendError, NoCapacityError, Unanswered
from dstack.protocol.statuses import InstanceReason, InstanceStatus
from tests.making import NOW, instance, instance_view, placed_job

WISHED = instance(status=InstanceStatus.PENDING, machine_id=None, address=None, agent_seen_at=None)
BOOTING = instance(status=InstanceStatus.PROVISIONING, agent_seen_at=None)
ADDRESS = Address("10.0.0.1", 2222, "ubuntu", "172.16.0.1")
BOOT_TIMEOUT = timedelta(minutes=20)
PACE = timedelta(seconds=15)
Outcomes: TypeAlias = Mapping[type[Intent], Outcome]


def launched(address: Address | None, **fields: object) -> Done:
    """The answer to a launch."""
    abilities = {"boot_timeout_s": BOOT_TIMEOUT.total_seconds(), "locate_every_s": PACE.total_seconds()}
    news = {"machine_id": "m-1", "state": "pending", "address": address_to_json(address), "detail": ""}
    return Done({**news, **abilities, **fields})


def located(address: Address | None, state: MachineState = MachineState.PENDING, detail: str = "") -> Done:
    """The answer to a look-up."""
    return Done({"state": state.value, "address": address_to_json(address), "detail": detail})


def test_a_machine_is_bought_once_under_the_instances_id() -> None:
    assert launch(instance_view(WISHED)).do == (LaunchMachine("0-instance"),)
    (written,) = launch(instance_view(WISHED, outcomes={LaunchMachine: launched(ADDRESS)})).write
    assert (written.status, written.machine_id) == (InstanceStatus.PROVISIONING, "m-1")
    assert isinstance(written, Instance) and written.address == ADDRESS


def test_launch_that_an_earlier_version_answered_is_taken_up() -> None:
    former = Done({"machine_id": "m-1", "hostname": "10.0.0.1"})
    (written,) = launch(instance_view(WISHED, outcomes={LaunchMachine: former})).write
    assert isinstance(written, Instance)
    assert (written.machine_id, written.address, written.detail) == ("m-1", Address("10.0.0.1"), "")


def test_sold_out_means_that_nothing_is_to_be_ended() -> None:
    sold_out = {LaunchMachine: Failed(NoCapacityError("sold out"))}
    (written,) = launch(instance_view(WISHED, outcomes=sold_out)).write
    assert (written.status, written.reason) == (InstanceStatus.TERMINATED, InstanceReason.NO_OFFERS)


def test_unanswered_launch_is_given_up_and_its_machine_ended_though_none_is_known() -> None:
    assert launch(instance_view(WISHED, placed_job(), outcomes={LaunchMachine: Pending()})) == Next()
    said = replace(WISHED, detail="The backend `aws` did not answer within 300 s")
    over: Outcomes = {LaunchMachine: Failed(Unanswered("not within 10m"))}
    (ending,) = launch(instance_view(said, placed_job(), outcomes=over)).write
    assert isinstance(ending, Instance)
    assert (ending.status, ending.reason) == (InstanceStatus.TERMINATING, InstanceReason.LAUNCH_TIMEOUT)
    assert ending.detail == "the launch did not succeed within 10m: The backend `aws` did not answer within 300 s"
    assert terminate(instance_view(ending, outcomes=over)).do == (TerminateMachine("0-instance"),)


def test_a_failed_launch_may_have_created_something_and_is_ended() -> None:
    failed = {LaunchMachine: Failed(BackendError("who knows"))}
    (written,) = launch(instance_view(WISHED, outcomes=failed)).write
    assert (written.status, written.reason) == (InstanceStatus.TERMINATING, InstanceReason.ERROR)


def test_a_machine_is_ready_with_its_agents_first_message_and_given_up_without() -> None:
    (ready,) = boot(instance_view(instance(status=InstanceStatus.PROVISIONING), placed_job())).write
    assert ready.status is InstanceStatus.BUSY
    here: Outcomes = {LaunchMachine: launched(ADDRESS, locate_every_s=None)}
    assert boot(instance_view(BOOTING, outcomes=here)) == Next(again=BOOT_TIMEOUT)
    (given_up,) = boot(instance_view(BOOTING, outcomes=here, now=NOW + BOOT_TIMEOUT)).write
    assert given_up.reason is InstanceReason.PROVISIONING_TIMEOUT
    assert given_up.detail == "its agent did not answer within 20m"


def test_a_booting_machine_is_looked_up_at_the_pace_of_its_backend_until_its_agent_answers() -> None:
    nowhere = replace(BOOTING, address=None)
    cloud: Outcomes = {LaunchMachine: launched(None)}
    assert boot(instance_view(nowhere, outcomes=cloud)) == Next(again=PACE), "its launch has just been answered"
    for rounds in (1, 2, 7):
        looks = boot(instance_view(nowhere, outcomes=cloud, now=NOW + rounds * PACE + timedelta(seconds=1)))
        assert looks.do == (LocateMachine("0-instance", rounds),), "once in each span, however often it is asked"
        assert looks.again == PACE - timedelta(seconds=1)
    asked: Outcomes = {**cloud, LocateMachine: Pending()}
    assert boot(instance_view(nowhere, outcomes=asked, now=NOW + 2 * PACE)).do == (), "a slow backend is asked once"


def test_an_address_is_kept_as_soon_as_the_backend_has_it() -> None:
    nowhere = replace(BOOTING, address=None)
    found: Outcomes = {LaunchMachine: launched(None), LocateMachine: located(ADDRESS, detail="it starts")}
    (written,) = boot(instance_view(nowhere, outcomes=found, now=NOW + PACE)).write
    assert isinstance(written, Instance) and (written.address, written.detail) == (ADDRESS, "it starts")
    silent: Outcomes = {LaunchMachine: launched(None), LocateMachine: located(None)}
    assert boot(instance_view(BOOTING, outcomes=silent, now=NOW + PACE)).write == (), "what is known stays"
    missing: Outcomes = {LaunchMachine: launched(None), LocateMachine: Done({})}
    assert boot(instance_view(nowhere, outcomes=missing, now=NOW + PACE)).write == (), "clouds list late"
    (given_up,) = boot(instance_view(nowhere, outcomes=missing, now=NOW + BOOT_TIMEOUT)).write
    assert given_up.detail == "the machine got no address within 20m"


def test_refused_look_up_is_shown_while_the_machine_boots() -> None:
    refused: Outcomes = {LaunchMachine: launched(ADDRESS), LocateMachine: Failed(BackendError("the key is revoked"))}
    (written,) = boot(instance_view(BOOTING, outcomes=refused, now=NOW + PACE)).write
    assert isinstance(written, Instance) and (written.address, written.detail) == (
        BOOTING.address,
        "the key is revoked",
    )


@pytest.mark.parametrize("state", [MachineState.FAILED, MachineState.ENDED, MachineState.ENDING])
def test_a_machine_that_fails_to_boot_ends_at_once_with_the_words_of_its_backend(state: MachineState) -> None:
    failed: Outcomes = {LaunchMachine: launched(ADDRESS), LocateMachine: located(ADDRESS, state, "no quota")}
    (ending,) = boot(instance_view(BOOTING, outcomes=failed, now=NOW + PACE)).write
    assert (ending.status, ending.reason) == (InstanceStatus.TERMINATING, InstanceReason.ERROR)
    assert ending.detail == "the machine failed to boot: no quota"
    at_launch: Outcomes = {LaunchMachine: launched(None, state=state.value, detail="")}
    (ending,) = boot(instance_view(BOOTING, outcomes=at_launch)).write
    assert ending.detail == f"the machine failed to boot: local calls it {state}"


def test_an_idle_machine_stays_warm_for_a_while() -> None:
    assert idle(instance_view(instance(), now=NOW + timedelta(minutes=3))) == Next(again=timedelta(minutes=2))
    (over,) = idle(instance_view(instance(), now=NOW + timedelta(minutes=5))).write
    assert (over.status, over.reason) == (InstanceStatus.TERMINATING, InstanceReason.IDLE_TIMEOUT)
    assert idle(instance_view(instance(idle_duration=None), now=NOW + timedelta(days=9))) == Next()


def test_a_machine_is_busy_while_it_has_jobs() -> None:
    (busy,) = idle(instance_view(instance(), placed_job(), now=NOW + timedelta(minutes=9))).write
    assert busy.status is InstanceStatus.BUSY
    assert work(instance_view(busy, placed_job())) == Next()
    (free,) = work(instance_view(busy)).write
    assert free.status is InstanceStatus.IDLE


def test_a_machine_that_is_silent_for_minutes_is_ended_although_it_has_jobs() -> None:
    silent = instance(status=InstanceStatus.BUSY, unreachable_since=NOW)
    assert work(instance_view(silent, placed_job(), now=NOW + timedelta(minutes=4))) == Next(again=timedelta(minutes=1))
    (ended,) = work(instance_view(silent, placed_job(), now=NOW + timedelta(minutes=5))).write
    assert (ended.status, ended.reason) == (InstanceStatus.TERMINATING, InstanceReason.UNREACHABLE)


def test_the_end_of_a_machine_is_asked_for_until_it_is_confirmed() -> None:
    ending = instance(status=InstanceStatus.TERMINATING)
    assert terminate(instance_view(ending)).do == (ShutDownAgent("0-instance"), TerminateMachine("0-instance"))
    refused = {TerminateMachine: Failed(BackendError("not now"))}
    later = terminate(instance_view(ending, outcomes=refused, now=NOW + ASK_AGAIN))
    assert later.do == (TerminateMachine("0-instance"),)
    (gone,) = terminate(instance_view(ending, outcomes={TerminateMachine: Done({})})).write
    assert (gone.status, gone.finished_at) == (InstanceStatus.TERMINATED, NOW)


def test_an_agent_ends_its_jobs_each_with_its_grace_before_its_machine_ends() -> None:
    ending = instance(status=InstanceStatus.TERMINATING, unreachable_since=NOW)
    jobs = [placed_job(stop_grace_s=grace_s) for grace_s in (10.0, 3600.0)]
    leave, end = terminate(instance_view(ending, *jobs)).do
    assert isinstance(leave, ShutDownAgent) and leave.grace_s == 3600.0
    assert end == TerminateMachine("0-instance")


@pytest.mark.parametrize("fields", [{"agent_seen_at": None}, {"gone_at": NOW}, {"unreachable_since": NOW}])
def test_a_machine_without_an_agent_ends_at_once(fields: dict[str, object]) -> None:
    ending = instance(status=InstanceStatus.TERMINATING, **fields)
    assert terminate(instance_view(ending)).do == (TerminateMachine("0-instance"),)


def test_machine_of_a_backend_that_is_removed_ends_after_its_jobs() -> None:
    drained = instance(status=InstanceStatus.BUSY, drain_asked_at=NOW)
    assert work(instance_view(drained, placed_job())) == Next()
    (ending,) = idle(instance_view(instance(drain_asked_at=NOW, idle_duration=None))).write
    assert (ending.status, ending.reason) == (InstanceStatus.TERMINATING, InstanceReason.BACKEND_REMOVED)
    assert "its backend is being removed" in drained.why_resting
