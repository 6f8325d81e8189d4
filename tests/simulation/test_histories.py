"""The real server in made-up worlds: whatever fails, nothing is lost, doubled or leaked."""

import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

from dstack.testing.faults import (
    BackendChanges,
    FailedBoots,
    FailedStarts,
    Fault,
    LateAddresses,
    LateCreates,
    LostReplies,
    RefusedEnds,
    ServerCrashes,
    Silence,
)
from dstack.testing.histories import Story, play, script_of, tell
from dstack.testing.plans import FAULTS_AMONG_SERVERS, FAULTS_MIN, RUNS
from tests.patience import PATIENCE_S

SEEDS = range(1, 11)
SEEDS_MAX = 100
"""So many until something has happened that happens in every tenth history or so."""


@cache
def told(seed: int) -> Story:
    return tell(seed).summary()


def test_nothing_is_lost_doubled_or_leaked() -> None:
    """Without this, planted bugs would prove nothing; `make sim` lives through many more."""
    assert [str(violation) for seed in SEEDS for violation in told(seed).violations] == []


@pytest.mark.parametrize("seed", range(1, 13))
def test_nor_is_it_where_several_servers_work_on_one_database(seed: int) -> None:
    """They are killed, frozen and updated, do not hear of each other, and their clocks are wrong."""
    script = script_of(seed)
    script = replace(script, servers=2 + seed % 2, faults=(*script.faults, *FAULTS_AMONG_SERVERS))
    assert [str(violation) for violation in play(script).violations] == []


def test_a_history_is_rich() -> None:
    assert min(sum(told(seed).ends.values()) for seed in SEEDS) >= RUNS >= 20
    assert min(len(told(seed).faults) for seed in SEEDS) >= FAULTS_MIN >= 3


def test_users_change_their_minds_in_every_status() -> None:
    missing = {"submitted", "pending", "provisioning", "running", "terminating"}
    for seed in range(1, SEEDS_MAX + 1):
        missing -= set(told(seed).stopped_in)
        if not missing:
            break
    assert missing == set()


@pytest.mark.parametrize("seed", range(1, 4))
def test_machines_that_start_nothing_are_left_alone_until_they_are_well(seed: int) -> None:
    script = replace(script_of(seed), faults=(FailedStarts(every_s=300, lasts_s=300),))
    assert [str(violation) for violation in play(script).violations] == []


HARD_CLOUDS: tuple[tuple[Fault, ...], ...] = (
    (Silence(every_s=300, lasts_s=300),),
    (LateAddresses(),),
    (FailedBoots(),),
    (BackendChanges(),),
    (Silence(), LateAddresses(), FailedBoots(), BackendChanges(), LateCreates(), RefusedEnds(), LostReplies()),
)


@pytest.mark.parametrize("faults", HARD_CLOUDS, ids=lambda faults: "+".join(type(one).__name__ for one in faults))
def test_clouds_that_hang_come_and_go_or_sell_bad_machines_cost_nothing_but_time(faults: tuple[Fault, ...]) -> None:
    for seed in range(1, 4):
        assert [str(violation) for violation in play(replace(script_of(seed), faults=faults)).violations] == []


@pytest.mark.deep
@pytest.mark.parametrize("faults", HARD_CLOUDS, ids=lambda faults: "+".join(type(one).__name__ for one in faults))
def test_so_do_they_in_many_histories(faults: tuple[Fault, ...], seed: int) -> None:
    for number in range(seed, seed + 100):
        assert [str(violation) for violation in play(replace(script_of(number), faults=faults)).violations] == []


KINDS_OF_POINTS = {
    *("before a commit", "after a commit", "before a message", "after a message", "before connecting"),
    *("before start_job", "before BoundedLogs.append", "after BoundedLogs.append"),
}


def test_servers_die_at_every_kind_of_point() -> None:
    missing = set(KINDS_OF_POINTS)
    for seed in range(1, SEEDS_MAX + 1):
        # Seldom: so that there are deaths left when jobs run and print.
        mortal = replace(script_of(seed), servers=1, faults=(ServerCrashes(probability=0.01, at_most=20),))
        missing -= set(play(mortal).deaths)
        if not missing:
            break
    assert missing == set()


def test_a_seed_is_one_history_in_every_process() -> None:
    stories = [_told_with_hash_seed(seed) for seed in ("1", "2")]
    assert stories[0] == stories[1]
    assert "sim: 1 histories, 0 violations" in stories[0]


def _told_with_hash_seed(hash_seed: str) -> str:
    command = [sys.executable, "-m", "dstack.testing", "--seed", "7"]
    asked = subprocess.run(
        command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    return asked.stdout
