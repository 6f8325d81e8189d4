from datetime import timedelta

from dstack.domain.intents import Done, Failed, LaunchMachine, TerminateMachine
from dstack.domain.objects import Next
from dstack.engine.instances.booting import BOOT_TIMEOUT, boot
from dstack.engine.instances.keeping import idle, work
from dstack.engine.instances.launching import launch
from dstack.engine.instances.terminating import ASK_AGAIN, terminate
from dstack.errors import BackendError, NoCapacityError
from dstack.protocol.statuses import InstanceReason, InstanceStatus
from tests.making import NOW, instance, instance_view, placed_job

WISHED = instance(status=InstanceStatus.PENDING, machine_id=None, hostname=None, agent_seen_at=None)


def test_a_machine_is_bought_once_under_the_instances_id() -> None:
    assert launch(instance_view(WISHED)).do == (LaunchMachine("0-instance"),)
    bought = {LaunchMachine: Done({"machine_id": "m-1", "hostname": "10.0.0.1"})}
    (written,) = launch(instance_view(WISHED, outcomes=bought)).write
    assert (written.status, written.machine_id) == (InstanceStatus.PROVISIONING, "m-1")


def test_sold_out_means_that_nothing_is_to_be_ended() -> None:
    sold_out = {LaunchMachine: Failed(NoCapacityError("sold out"))}
    (written,) = launch(instance_view(WISHED, outcomes=sold_out)).write
    assert (written.status, written.reason) == (InstanceStatus.TERMINATED, InstanceReason.NO_OFFERS)


def test_a_failed_launch_may_have_created_something_and_is_ended() -> None:
    failed = {LaunchMachine: Failed(BackendError("who knows"))}
    (written,) = launch(instance_view(WISHED, outcomes=failed)).write
    assert (written.status, written.reason) == (InstanceStatus.TERMINATING, InstanceReason.ERROR)


def test_a_machine_is_ready_with_its_agents_first_word_and_given_up_without() -> None:
    (ready,) = boot(instance_view(instance(status=InstanceStatus.PROVISIONING), placed_job())).write
    assert ready.status is InstanceStatus.BUSY
    silent = instance(status=InstanceStatus.PROVISIONING, agent_seen_at=None)
    assert boot(instance_view(silent)) == Next(again=BOOT_TIMEOUT)
    (given_up,) = boot(instance_view(silent, now=NOW + BOOT_TIMEOUT)).write
    assert given_up.reason is InstanceReason.PROVISIONING_TIMEOUT


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
    assert terminate(instance_view(ending)).do == (TerminateMachine("0-instance"),)
    refused = {TerminateMachine: Failed(BackendError("not now"))}
    later = terminate(instance_view(ending, outcomes=refused, now=NOW + ASK_AGAIN))
    assert later.do == (TerminateMachine("0-instance"),)
    (gone,) = terminate(instance_view(ending, outcomes={TerminateMachine: Done({})})).write
    assert (gone.status, gone.finished_at) == (InstanceStatus.TERMINATED, NOW)
