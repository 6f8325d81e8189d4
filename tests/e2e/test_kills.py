"""Whoever is killed or frozen, whenever: no byte lost, no job stuck, nothing left."""

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.e2e.home import Home
from tests.e2e.tasks import on_engine
from tests.engines import DockerEngine
from tests.kills import Killer, Victims, Worker, assert_nothing_is_left, errors_of, stuck

KILLS_IN_CI, KILLS = 10, 500
WORKERS = 4
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 1.6
HOST = ["server", "server", "agent", "agent", "spawner", "supervisor", "SSH server"]
ENGINE = ["engine", "containerd"]


@pytest.fixture
def surviving() -> Iterator[DockerEngine]:
    """An engine whose containers outlive it."""
    engine = DockerEngine(live_restore=True)
    engine.start()
    yield engine
    engine.stop()


def kill_all_around(home: Home, engine: DockerEngine | None, seed: int, kills: int, workers: int) -> None:
    (home.path / "truth").mkdir(mode=0o777)
    (home.path / "truth").chmod(0o777)
    victims = Victims(home, engine)
    spared = os.environ.get("DSTACK_TEST_SPARED", "").split(",")
    names = [name for name in (HOST if engine is None else HOST + ENGINE) if name not in spared]
    chance = random.Random(seed)
    killer = Killer(victims, chance, names)
    crew = [Worker(home, victims, random.Random(f"{seed} {number}"), number) for number in range(workers)]
    for worker in crew:
        worker.start()
    struck = 0
    while struck < kills and not errors_of(crew):
        struck += killer.strike()
        time.sleep(chance.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S))
    for worker in crew:
        worker.is_last.set()
    while any(worker.is_alive() for worker in crew) and not any(worker.is_stuck for worker in crew):
        for worker in crew:
            worker.join(0.1)
    print("\n".join(sorted(line for one in (killer, *crew) for line in one.story)), time.strftime("%H:%M:%S"))
    print(f"seed {seed}: {struck} strikes {killer.counts}, {sum(worker.done for worker in crew)} jobs")
    if errors := errors_of(crew):
        print(*(home.cli("event", "--run", plan.name).stdout for plan in stuck(crew)), sep="\n")
        pytest.fail(f"seed {seed}:\n" + "\n".join(errors))
    assert_nothing_is_left(home, engine)


def test_a_few_kills_at_random_moments_lose_nothing(home: Home) -> None:
    kill_all_around(home, None, seed=11, kills=KILLS_IN_CI, workers=2)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_kills_at_random_moments_lose_nothing(
    home: Home, surviving: DockerEngine, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    kills = int(os.environ.get("DSTACK_TEST_KILLS", KILLS))
    with on_engine(home, surviving, monkeypatch):
        kill_all_around(home, surviving, seed, kills, WORKERS)
