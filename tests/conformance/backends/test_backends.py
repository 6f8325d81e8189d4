"""Each driver passes each check that applies to it, and each planted fault fails the check that is there for it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dstack.backends.base import Backend
from dstack.errors import DstackError
from tests.conformance.backends.checks import CHECKS
from tests.conformance.backends.faults import PLANTS, Faulty, Plant
from tests.conformance.backends.subject import Subject
from tests.conformance.backends.subjects import WRONG, local, simulated

SUBJECTS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "local": local,
    "simulated": lambda folder: simulated(),
    "simulated with faults": lambda folder: simulated(*WRONG),
}
MAKERS = ("make", "elsewhere", "sold_out", "failing", "unreachable", "unauthorized")


def checks_of(subject_name: str) -> list[str]:
    """Return the checks that apply to a driver."""
    with tempfile.TemporaryDirectory() as folder, SUBJECTS[subject_name](Path(folder)) as subject:
        return [name for name, (_, applies) in CHECKS.items() if applies(subject)]


PAIRS = [(subject_name, check) for subject_name in SUBJECTS for check in checks_of(subject_name)]
PLANTED = [
    pytest.param(subject_name, check, plant, id=f"{subject_name}-{plant.__name__}-{check}")
    for subject_name, check in PAIRS
    for plant in PLANTS[check]
    if subject_name != "simulated with faults"
]


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with SUBJECTS[request.param](tmp_path) as subject:
        yield subject


@pytest.mark.parametrize(("subject", "check"), PAIRS, indirect=["subject"])
def test_a_driver_keeps_the_contract(subject: Subject, check: str) -> None:
    CHECKS[check][0](subject)


@pytest.mark.parametrize(("subject", "check", "plant"), PLANTED, indirect=["subject"])
def test_a_planted_fault_is_caught(subject: Subject, check: str, plant: Plant) -> None:
    with pytest.raises((AssertionError, DstackError)):
        CHECKS[check][0](with_fault(subject, plant))


def test_each_check_applies_to_a_driver_and_has_a_planted_fault() -> None:
    assert set(PLANTS) == set(CHECKS) == {check for _, check in PAIRS}


def with_fault(subject: Subject, plant: Plant) -> Subject:
    """Return the subject with all of its drivers broken."""
    Faulty.made.clear()
    changes: dict[str, Any] = {name: _broken(getattr(subject, name), plant) for name in MAKERS}
    return replace(subject, **changes, asks_max=plant.asks_max or subject.asks_max)


def _broken(make: Callable[[], Backend] | None, plant: Plant) -> Callable[[], Backend] | None:
    return None if make is None else lambda: plant(make())
