from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.machines import Machine, MachineState
from dstack.domain.objects import Instance
from dstack.domain.reconciling import LISTED_WITHIN, MISSING_AFTER, ORPHAN_AFTER, Difference, Finding, compare
from dstack.protocol.statuses import InstanceStatus
from tests.making import NOW, instance

MACHINE = Machine("m-1", "0-instance", MachineState.RUNNING)


def found(listed: list[Machine], *instances: Instance, before: list[Finding] | None = None) -> list[Finding]:
    return compare("aws", listed, {one.id: one for one in instances}, before or [], NOW)


@pytest.mark.parametrize(
    "listed, claims, differences",
    [
        ([MACHINE], [instance()], []),
        ([MACHINE], [], [Difference.ORPHAN]),
        ([], [instance()], [Difference.MISSING]),
        ([replace(MACHINE, state=MachineState.ENDED)], [instance()], [Difference.MISSING]),
        ([replace(MACHINE, state=MachineState.ENDED)], [], []),
        ([replace(MACHINE, state=MachineState.FAILED)], [], [Difference.ORPHAN]),
        ([MACHINE, replace(MACHINE, id="m-2")], [instance()], [Difference.DUPLICATE]),
        ([MACHINE], [instance(status=InstanceStatus.PENDING, machine_id=None)], []),
        ([], [instance(status=InstanceStatus.PENDING, machine_id=None)], []),
        ([], [instance(status=InstanceStatus.TERMINATING)], []),
        ([], [instance(status=InstanceStatus.PROVISIONING, status_since=NOW)], []),
        ([], [instance(status=InstanceStatus.PROVISIONING, status_since=NOW - LISTED_WITHIN)], [Difference.MISSING]),
    ],
    ids=[
        "claimed",
        "nobody claims it",
        "not there",
        "ended, and still listed",
        "ended, still listed, and of no interest",
        "failed, and costs money",
        "there twice",
        "being bought, and listed before the reply",
        "being bought",
        "being ended",
        "just bought",
        "bought long ago and never listed",
    ],
)
def test_where_the_backend_and_the_record_differ(
    listed: list[Machine], claims: list[Instance], differences: list[Difference]
) -> None:
    assert [one.difference for one in found(listed, *claims)] == differences


def test_it_is_known_since_when_a_difference_is_seen_and_when_it_is_acted_on() -> None:
    earlier = NOW - timedelta(seconds=30)
    before = [
        Finding(Difference.ORPHAN, "aws", "m-1", "0-instance", earlier),
        Finding(Difference.MISSING, "aws", "m-2", "1-instance", earlier),
        Finding(Difference.ORPHAN, "aws", "m-3", "3-instance", earlier),
    ]
    orphan, missing = found([MACHINE], instance(id="1-instance", machine_id="m-2"), before=before)
    assert (orphan.since, orphan.sure_at) == (earlier, earlier + ORPHAN_AFTER)
    assert (missing.since, missing.sure_at) == (earlier, earlier + MISSING_AFTER)


ids = st.sampled_from([f"{number}-instance" for number in range(4)])
machines = st.sets(
    st.builds(Machine, st.sampled_from(["m-1", "m-2", "m-3"]), ids, st.just(MachineState.RUNNING)), max_size=6
)


@given(machines, st.dictionaries(ids, st.none() | st.sampled_from(["m-1", "m-2", "m-3"])))
def test_the_machine_that_an_instance_names_is_never_ended_and_one_that_none_names_always(
    there: set[Machine], claims: dict[str, str | None]
) -> None:
    live = {id: instance(id=id, machine_id=machine) for id, machine in claims.items()}
    ended = {
        (one.machine_id, one.key) for one in compare("aws", list(there), live, [], NOW) if one.difference != "missing"
    }
    for machine in there:
        named = claims.get(machine.key, "nobody claims it")
        assert ((machine.id, machine.key) in ended) == (named is not None and named != machine.id)


steps_s = st.lists(st.integers(1, 400), min_size=1, max_size=12)


@given(steps_s)
def test_an_orphan_is_acted_on_in_the_first_look_that_is_late_enough_and_no_sooner(gaps_s: list[int]) -> None:
    now, seen = NOW, found([MACHINE])
    assert seen[0].sure_at > NOW, "never on the first look"
    for gap_s in gaps_s:
        now += timedelta(seconds=gap_s)
        seen = compare("aws", [MACHINE], {}, seen, now)
        assert (seen[0].sure_at <= now) == (now - NOW >= ORPHAN_AFTER)


@given(steps_s)
def test_a_difference_that_was_over_in_between_counts_from_anew(gaps_s: list[int]) -> None:
    now, seen = NOW, found([MACHINE])
    for gap_s in gaps_s:
        now += timedelta(seconds=gap_s)
        seen = compare("aws", [], {}, seen, now)
        assert seen == []
    [again] = compare("aws", [MACHINE], {}, seen, now)
    assert again.since == now


def test_where_a_list_is_exact_one_look_is_enough() -> None:
    asked = NOW - timedelta(seconds=1)
    [orphan] = compare("local", [MACHINE], {}, [], NOW, asked)
    assert orphan.sure_at == NOW
    long_ago = {"status": InstanceStatus.BUSY, "status_since": NOW - timedelta(seconds=2)}
    [missing] = compare("local", [], {"0-instance": instance(**long_ago)}, [], NOW, asked)
    assert (missing.difference, missing.sure_at) == (Difference.MISSING, NOW)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": InstanceStatus.PROVISIONING, "status_since": NOW},
        {"status": InstanceStatus.TERMINATING, "status_since": NOW - timedelta(hours=1)},
        {"status": InstanceStatus.PENDING, "machine_id": None},
    ],
)
def test_what_came_or_went_while_it_was_asked_is_not_missing(fields: dict[str, Any]) -> None:
    live = {"0-instance": instance(**fields)}
    assert compare("local", [], live, [], NOW, NOW - timedelta(seconds=1)) == []
