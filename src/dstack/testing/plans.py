"""What the users of a history wish for, drawn from its chance: runs of every kind, and stops at any moment."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dstack.backends import local
from dstack.domain.offers import Offer
from dstack.protocol.agent import HostResources
from dstack.protocol.statuses import RunStatus
from dstack.testing.behaviours import FAILS, NEVER_READY, Behaviour
from dstack.testing.clients import Visit
from dstack.testing.faults import (
    AgentRestarts,
    BackendChanges,
    DatabaseBusy,
    DataPlaneKills,
    DeafServers,
    EventualConsistency,
    FailedBoots,
    FailedStarts,
    Fault,
    HangingLaunches,
    HostileAgents,
    LateAddresses,
    LateCreates,
    LinkCuts,
    LostReplies,
    MachineFailures,
    OtherAgents,
    RefusedEnds,
    RepeatedMessages,
    ReplicaDeaths,
    RunChanges,
    ServerCrashes,
    ServerPauses,
    ServerUpdates,
    Silence,
    SlowBoots,
    SlowDrains,
    SlowStarts,
    SoldOut,
    SpotReclaims,
    Unavailable,
    WrongClocks,
)

RUNS = 20
SUBMITS_WITHIN_S = 600.0
FAULTS_MIN = 3
SEVERAL_SERVERS = 0.04
"""In so many histories several servers work on one database."""

WITH_SERVICES = 0.25
"""In so many histories some of the runs are services."""
FAULTS_OF_SERVICES: tuple[Fault, ...] = (ReplicaDeaths(), SlowDrains())
"""The faults that histories with services draw from as well."""
WITH_SCALING = 0.06
"""In so many histories another run is a service that scales with its requests."""
FAULTS_OF_SCALING: tuple[Fault, ...] = (*FAULTS_OF_SERVICES, DataPlaneKills())
"""The faults that histories with such a service draw from as well."""
CHANGES_EVERY_S, SERVES_FOR_S, FOR_EVER_S = 1200.0, 5400.0, 1e9
COURSE = (
    *((1800.0, 1e9, 1.0), (900.0, 1200.0, 10.0)),
    *((300.0, 15.0, 10.0), (60.0, 4.0, 60.0), (120.0, 60.0, 900.0)),
)
"""The parts of a day of requests: how long each lasts, the mean time between two requests, and how long an answer takes
at most."""
HALF = 0.5
FIRST_CHANGE = 101
"""Changes are told apart by numbers that no revision has."""

FAULTS: tuple[Fault, ...] = (
    SoldOut(),
    Unavailable(),
    LostReplies(),
    LateCreates(),
    HangingLaunches(),
    EventualConsistency(),
    RefusedEnds(),
    SlowBoots(),
    SpotReclaims(),
    MachineFailures(),
    LinkCuts(),
    AgentRestarts(),
    RepeatedMessages(),
    SlowStarts(),
    FailedStarts(),
    ServerCrashes(),
    DatabaseBusy(),
    RunChanges(),
    OtherAgents(),
    HostileAgents(),
    Silence(),
    LateAddresses(),
    FailedBoots(),
    BackendChanges(),
)
"""What histories draw from."""

FAULTS_AMONG_SERVERS: tuple[Fault, ...] = (ServerPauses(), ServerUpdates(), WrongClocks(), DeafServers())
"""What histories with several servers draw from as well."""

MARKETS = {
    "local": [local.offer_of(HostResources(4, 16_384, 100_000))],
    "aws": [
        Offer("aws", "eu", "m5.large", HostResources(2, 8192, 102_400), 0.1, machines_max=3),
        Offer("aws", "eu", "m5.large", HostResources(2, 8192, 102_400), 0.04, spot=True, machines_max=2),
    ],
}
"""A machine that is shared, and a cloud whose machines are not; both too small for all that is wanted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one user will do."""

    name: str
    submit_at_s: float
    configuration: dict[str, Any]
    behaviour: Behaviour
    stop: "StopPlan | None" = None
    changes: tuple["ChangePlan", ...] = ()
    """What is changed of a service before that, one after the other."""
    visits: tuple[Visit, ...] = ()
    """The requests for a service, in order of time."""


@dataclass(frozen=True, slots=True)
class StopPlan:
    """When a user changes their mind: some time after the run has got so far, or after the submit."""

    after_s: float
    when: RunStatus | None
    abort: bool


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """A service that gets other values of some fields, some time after the change before."""

    after_s: float
    fields: dict[str, Any]
    is_forced: bool


@dataclass(frozen=True, slots=True)
class Chances:
    """The draws of one history."""

    chance: random.Random

    def draw_servers(self) -> int:
        """One mostly: several take turns at everything, which takes four times as long to live through."""
        return self.chance.choice([2, 2, 3]) if self.chance.random() < SEVERAL_SERVERS else 1

    def draw_faults(self, servers: int = 1) -> list[Fault]:
        """Some of what can go wrong, three kinds at least."""
        faults = self.chance.sample(FAULTS, self.chance.randint(FAULTS_MIN, 5))
        if servers > 1:
            faults += self.chance.sample(FAULTS_AMONG_SERVERS, self.chance.randint(1, 3))
        return faults

    def draw_plans(self) -> Iterator[Plan]:
        """What all users will do."""
        for number in range(RUNS):
            yield self._plan(f"run-{number}")

    def draw_services(self, probability: float) -> Iterator[Plan]:
        """What users of services will do, in some histories."""
        if self.chance.random() < probability:
            for number in range(self.chance.randint(1, 2)):
                yield self._service(f"service-{number}")

    def _service(self, name: str) -> Plan:
        choice = self.chance.choice
        configuration: dict[str, Any] = {
            "type": "service",
            "port": 80,
            "commands": ["serve"],
            "replicas": choice([1, 2, 2, 3]),
            "priority": choice([0, 50]),
            "retry": choice([True, True, False]),
            "backends": choice([["local"], ["local", "aws"]]),
            "spot_policy": "auto",
            "idle_duration": choice([0, 60]),
        }
        behaviour = Behaviour(takes_s=FOR_EVER_S, ready_after_s=choice([0.0, 5.0, 60.0]))
        changes = tuple(self._change(number) for number in range(self.chance.randint(1, 5)))
        stop = StopPlan(self.chance.uniform(0, SERVES_FOR_S), None, self.chance.random() < 0.2)
        return Plan(name, self.chance.uniform(0, 60), configuration, behaviour, stop, changes)

    def draw_scaling(self, probability: float) -> Iterator[Plan]:
        """What the user of a service that scales will do, and its clients, in some histories."""
        if self.chance.random() < probability:
            yield self._scaling("scaling-0")

    def _scaling(self, name: str) -> Plan:
        choice = self.chance.choice
        metric, target = choice([("rps", 0.05), ("rps", 0.2), ("concurrency", 2)])
        plan = self._service(name)
        more = {
            "replicas": choice(["0..2", "0..3", "0..4", "1..3"]),
            "retry": choice([True, True, True, False]),
            "resources": {"cpu": 1, "memory": "1GB"},
            "scaling": {
                "metric": metric,
                "target": target,
                "scale_up_delay": choice([0, 60]),
                "scale_down_delay": choice([60, 120, 300]),
                "window": choice([20, 60]),
            },
        }
        changes = tuple(self._change_of_scaling(number) for number in range(self.chance.randint(0, 4)))
        stop = StopPlan(self.chance.uniform(HALF * SERVES_FOR_S, SERVES_FOR_S), None, self.chance.random() < 0.2)
        configuration = {**plan.configuration, **more}
        return replace(plan, configuration=configuration, changes=changes, stop=stop, visits=tuple(self._visits()))

    def _change_of_scaling(self, number: int) -> ChangePlan:
        works = f"serve # revision {FIRST_CHANGE + number}"
        fields: dict[str, Any] = self.chance.choice(
            [
                {"commands": [works]},
                {"commands": [f"{works} {FAILS}"]},
                {"replicas": 2},
                {"replicas": "0..3"},
                {"replicas": "1..3"},
                {"replicas": "0..1"},
                {"priority": 10},
            ]
        )
        return ChangePlan(self.chance.uniform(0, CHANGES_EVERY_S), fields, self.chance.random() < 0.15)

    def _visits(self) -> Iterator[Visit]:
        """Draw the requests for a service: quiet nights, steady days, bursts and long streams."""
        at_s = 0.0
        while at_s < SERVES_FOR_S + CHANGES_EVERY_S:
            lasts_s, every_s, takes_s = self.chance.choice(COURSE)
            ends_s, at_s = at_s + lasts_s, at_s + self.chance.expovariate(1 / every_s)
            while at_s < ends_s:
                yield Visit(at_s, self.chance.uniform(0, takes_s))
                at_s += self.chance.expovariate(1 / every_s)
            at_s = ends_s

    def _change(self, number: int) -> ChangePlan:
        works = f"serve # revision {FIRST_CHANGE + number}"
        fields: dict[str, Any] = self.chance.choice(
            [
                {"commands": [works]},
                {"commands": [works], "replicas": 3},
                {"commands": [f"{works} {FAILS}"]},
                {"commands": [f"{works} {NEVER_READY}"]},
                {"replicas": 1},
                {"replicas": 4},
                {"priority": 10},
            ]
        )
        return ChangePlan(self.chance.uniform(0, CHANGES_EVERY_S), fields, self.chance.random() < 0.15)

    def _plan(self, name: str) -> Plan:
        choice = self.chance.choice
        configuration: dict[str, Any] = {
            "type": "task",
            "commands": ["work"],
            "nodes": choice([1, 1, 1, 1, 1, 1, 1, 1, 2, 3]),
            "priority": choice([0, 0, 50]),
            "retry": self._retry(),
            "backends": choice([["local"], ["aws"], ["local", "aws"]]),
            "spot_policy": choice(["auto", "auto", "on-demand"]),
            "idle_duration": choice([0, 60, 120]),
        }
        if self.chance.random() < 0.2:
            configuration["max_duration"] = 60
        behaviour = Behaviour(
            exits=choice([(0,), (0,), (0,), (1, 0), (1, 1, 0), (1,)]),
            takes_s=choice([0, 1, 30, 120, 240]),
            prints=b"x" * choice([0, 10, 5000]),
        )
        stop = self._stop() if self.chance.random() < 0.5 else None
        return Plan(name, self.chance.uniform(0, SUBMITS_WITHIN_S), configuration, behaviour, stop)

    def _retry(self) -> object:
        events = ["no-capacity", "interruption", "error"]
        chosen = self.chance.sample(events, self.chance.randint(0, 3))
        if not chosen:
            return False
        is_default = len(chosen) == len(events) and self.chance.random() < 0.3
        return True if is_default else {"on_events": chosen, "duration": "10m"}

    def _stop(self) -> StopPlan:
        statuses = [RunStatus.PENDING, RunStatus.PROVISIONING, RunStatus.RUNNING, RunStatus.TERMINATING]
        when = self.chance.choice([None, *statuses])
        after_s = self.chance.choice([0.0, self.chance.uniform(0, 5), self.chance.expovariate(1 / 300)])
        return StopPlan(after_s, when, self.chance.random() < 0.5)
