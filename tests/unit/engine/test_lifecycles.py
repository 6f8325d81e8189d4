from enum import StrEnum
from typing import Any

import pytest

from dstack.domain.intents import INTENTS
from dstack.domain.lifecycle import Lifecycle
from dstack.engine.effects import PERFORMERS
from dstack.engine.lifecycles import INSTANCE, JOB, LIFECYCLES, RUN
from dstack.errors import IllegalMove
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus
from dstack.store.kinds import KINDS

TABLES: list[tuple[Lifecycle[Any, Any], type[StrEnum]]] = [
    (RUN, RunStatus),
    (JOB, JobStatus),
    (INSTANCE, InstanceStatus),
]


def reachable(table: Lifecycle[Any, Any], start: StrEnum) -> set[StrEnum]:
    seen, todo = set(), [start]
    while todo:
        status = todo.pop()
        seen.add(status)
        todo += [new for old, new in table.moves() if old == status and new not in seen]
    return seen


@pytest.mark.parametrize(("table", "statuses"), TABLES, ids=lambda value: getattr(value, "name", None))
def test_every_status_can_be_reached_and_can_end(table: Lifecycle[Any, Any], statuses: type[StrEnum]) -> None:
    assert reachable(table, table.start) == set(statuses)
    for status in statuses:
        assert any(table.is_final(end) for end in reachable(table, status)), f"{status} can never end"


@pytest.mark.parametrize(("table", "statuses"), TABLES, ids=lambda value: getattr(value, "name", None))
def test_statuses_that_say_they_are_finished_are_final(table: Lifecycle[Any, Any], statuses: type[StrEnum]) -> None:
    for status in statuses:
        if hasattr(status, "is_finished"):
            assert status.is_finished() == table.is_final(status)


def test_an_illegal_move_names_the_legal_ones() -> None:
    with pytest.raises(IllegalMove, match="job may not go from running to done; legal: terminating"):
        JOB.check(JobStatus.RUNNING, JobStatus.DONE)


def test_every_kind_on_record_has_its_table_and_every_intent_its_performer() -> None:
    assert set(KINDS) == set(LIFECYCLES)
    assert all(name == kind.rows.kind == LIFECYCLES[name].name for name, kind in KINDS.items())
    assert set(PERFORMERS) == set(INTENTS.values())
