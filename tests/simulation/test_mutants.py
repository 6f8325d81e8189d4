"""Who would notice? Bugs are planted into the real code, and some history has to catch each of them."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dstack.testing.faults import (
    AgentRestarts,
    BackendChanges,
    FailedBoots,
    FailedStarts,
    Fault,
    HangingLaunches,
    HostileAgents,
    LateAddresses,
    LinkCuts,
    OtherAgents,
    RefusedEnds,
    ReplicaDeaths,
    RunChanges,
    ServerPauses,
    SlowDrains,
    SlowStarts,
)
from dstack.testing.histories import play, script_of
from tests.simulation.mutants import MUTANTS

SEEDS = range(1, 201)
"""Most are caught within the first six; so many leave room for plans that change."""
DEEP_SEEDS = 400

CAUGHT_BY = {
    "a_machine_is_bought_before_its_row_is_committed": "machines_have_a_row",
    "a_machine_that_fails_start_after_start_takes_further_jobs": "no_machine_is_a_black_hole",
    "a_machine_is_bought_anew_each_time_a_launch_is_tried": "machines_have_a_row",
    "the_end_of_a_machine_is_believed_without_confirmation": "ended_instances_have_no_machine",
    "nobody_asks_for_the_end_of_a_machine": "ended_instances_have_no_machine",
    "the_end_of_a_machine_that_was_refused_is_not_asked_for_again": "spending_stops",
    "the_address_of_a_machine_is_asked_for_once": "machines_are_located",
    "a_machine_that_failed_to_boot_is_left_behind": "ended_instances_have_no_machine",
    "a_job_waits_for_a_launch_that_hangs": "nothing_is_stuck",
    "a_failed_boot_is_launched_again_without_end": "launches_in_vain_are_bounded",
    "a_backend_is_removed_with_its_machines": "spending_stops",
    "idle_machines_are_kept_for_ever": "spending_stops",
    "what_was_left_open_is_not_taken_up_after_a_crash": "nothing_is_stuck",
    "what_came_of_an_intent_is_not_recorded": "nothing_is_stuck",
    "timers_are_lost_and_nobody_looks_around": "everything_ends",
    "the_next_attempt_starts_before_the_last_one_is_over": "ended_jobs_do_not_run",
    "a_report_about_an_old_attempt_is_believed_of_the_new_one": "exit_codes_are_true",
    "placement_buys_more_than_there_may_be": "fleets_keep_their_maximum",
    "a_job_on_a_silent_machine_is_given_up_at_once": "ended_jobs_do_not_run",
    "a_start_that_is_asked_again_is_another_job": "jobs_start_while_wanted",
    "the_table_of_moves_is_not_asked": "statuses_move_along_the_table",
    "log_bytes_are_acknowledged_and_not_stored": "logs_are_whole",
    "a_submit_is_accepted_before_it_is_committed": "accepted_runs_are_on_record",
    "a_job_is_started_with_the_latest_script_of_its_run": "jobs_start_as_they_were_made",
    "the_next_attempt_is_made_from_the_revision_of_the_last_one": "attempts_follow_the_revisions",
    "a_server_acts_without_a_lease": "only_the_owner_acts",
    "what_a_former_owner_heard_is_written": "only_the_owner_acts",
    "what_another_server_wrote_is_overwritten": "fleets_keep_their_maximum",
    "a_report_is_believed_from_any_machine": "exit_codes_are_true",
    "a_message_of_an_unknown_type_breaks_the_link": "links_last",
    "an_agent_of_another_version_is_refused": "links_last",
    "a_replica_that_dies_takes_the_others_with_it": "replicas_die_alone",
    "all_old_replicas_are_replaced_at_once": "the_last_ready_replica_stays",
    "a_rollout_begins_with_all_its_replicas": "replicas_are_bounded",
    "a_drain_is_not_awaited": "drains_are_awaited",
    "a_bad_revision_is_tried_for_ever": "rollouts_end",
    "requests_go_to_replicas_that_drain": "requests_go_to_ready_replicas",
    "a_decision_is_taken_twice": "decisions_are_taken_once",
    "a_replica_that_is_not_needed_ends_with_its_requests": "busy_replicas_stay",
    "a_held_request_wakes_no_service": "held_requests_are_served",
    "a_service_without_replicas_refuses_requests": "requests_at_zero_are_held",
    "only_requests_that_wait_count": "traffic_keeps_a_replica",
    "a_quiet_service_keeps_its_replicas": "quiet_services_shrink",
}
"""The rule that has to notice each bug; others may notice it too."""

AMONG_SERVERS = {
    "a_server_acts_without_a_lease",
    "what_a_former_owner_heard_is_written",
    "what_another_server_wrote_is_overwritten",
}
"""Where one server is alone, these are no bugs."""


OF_SERVICES = {
    "a_replica_that_dies_takes_the_others_with_it",
    "all_old_replicas_are_replaced_at_once",
    "a_rollout_begins_with_all_its_replicas",
    "a_drain_is_not_awaited",
    "a_bad_revision_is_tried_for_ever",
    "requests_go_to_replicas_that_drain",
}
"""Histories without other runs show these soonest."""

OF_SCALING = {
    "a_decision_is_taken_twice",
    "a_replica_that_is_not_needed_ends_with_its_requests",
    "a_held_request_wakes_no_service",
    "a_service_without_replicas_refuses_requests",
    "only_requests_that_wait_count",
    "a_quiet_service_keeps_its_replicas",
}
"""So do histories of a service that scales."""

FAULTS_FOR: dict[str, tuple[Fault, ...]] = {
    "the_end_of_a_machine_that_was_refused_is_not_asked_for_again": (RefusedEnds(),),
    "the_address_of_a_machine_is_asked_for_once": (LateAddresses(),),
    "a_machine_that_failed_to_boot_is_left_behind": (FailedBoots(),),
    "a_job_waits_for_a_launch_that_hangs": (HangingLaunches(at_most_s=36_000.0),),
    "a_backend_is_removed_with_its_machines": (BackendChanges(),),
    "a_failed_boot_is_launched_again_without_end": (FailedBoots(probability=1.0),),
    "a_machine_that_fails_start_after_start_takes_further_jobs": (FailedStarts(every_s=10, lasts_s=7200),),
    "the_next_attempt_starts_before_the_last_one_is_over": (SlowStarts(), FailedStarts(every_s=60, lasts_s=60)),
    "a_job_on_a_silent_machine_is_given_up_at_once": (LinkCuts(), AgentRestarts()),
    "a_job_is_started_with_the_latest_script_of_its_run": (RunChanges(),),
    "the_next_attempt_is_made_from_the_revision_of_the_last_one": (RunChanges(),),
    "a_report_is_believed_from_any_machine": (HostileAgents(),),
    "a_message_of_an_unknown_type_breaks_the_link": (OtherAgents(),),
    "an_agent_of_another_version_is_refused": (OtherAgents(),),
    "a_replica_that_dies_takes_the_others_with_it": (ReplicaDeaths(),),
    "a_drain_is_not_awaited": (SlowDrains(),),
    "requests_go_to_replicas_that_drain": (SlowDrains(),),
    "all_old_replicas_are_replaced_at_once": (),
    "a_rollout_begins_with_all_its_replicas": (),
    "a_bad_revision_is_tried_for_ever": (),
    **dict.fromkeys(OF_SCALING, ()),
}
"""What a bug needs to show within the first few histories."""


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Servers with planted bugs complain, at length."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_every_planted_bug_has_its_rule() -> None:
    assert set(CAUGHT_BY) == set(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught(name: str) -> None:
    assert _is_caught(name, SEEDS)


@pytest.mark.deep
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught_whatever_the_seeds(name: str, seed: int) -> None:
    assert _is_caught(name, range(seed, seed + DEEP_SEEDS))


def _is_caught(name: str, seeds: range) -> bool:
    with MUTANTS[name]():
        return any(CAUGHT_BY[name] in _broken_in(seed, name) for seed in seeds)


def _broken_in(seed: int, name: str) -> set[str]:
    script = script_of(seed, only_services=name in OF_SERVICES, only_scaling=name in OF_SCALING)
    if name in AMONG_SERVERS:
        script = replace(script, servers=2, faults=(ServerPauses(), LinkCuts(), SlowStarts()))
    script = replace(script, faults=FAULTS_FOR.get(name, script.faults))
    return {violation.invariant for violation in play(script).violations}
