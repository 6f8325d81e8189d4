"""Every status of every object, who acts in it, and where it may go. The whole engine on a page.

Rule 1: a status that is not here does not exist, and a move that is not here cannot happen.
Rule 2: the functions named here are pure; see `dstack.domain.intents` for how they act.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeAlias

from dstack.domain.lifecycle import In, Lifecycle
from dstack.domain.objects import InstanceView, JobView, Next, RunView
from dstack.engine.instances.booting import boot
from dstack.engine.instances.keeping import idle, work
from dstack.engine.instances.launching import launch
from dstack.engine.instances.terminating import terminate
from dstack.engine.jobs.awaiting_placement import await_placement
from dstack.engine.jobs.starting import start
from dstack.engine.jobs.stopping import stop
from dstack.engine.jobs.watching import watch
from dstack.engine.runs.following import follow
from dstack.engine.runs.waiting import await_turn
from dstack.engine.runs.winding_down import wind_down
from dstack.protocol.statuses import InstanceStatus, JobStatus, RunStatus

RunStep: TypeAlias = Callable[[RunView], Next]
JobStep: TypeAlias = Callable[[JobView], Next]
InstanceStep: TypeAlias = Callable[[InstanceView], Next]

_r = RunStatus
RUN: Lifecycle[RunStatus, RunStep] = Lifecycle(
    "run",
    start=_r.SUBMITTED,
    rows={
        # while in          do this      then go to
        _r.SUBMITTED:    In(follow,      to=(_r.PENDING, _r.PROVISIONING, _r.RUNNING, _r.TERMINATING)),
        _r.PENDING:      In(await_turn,  to=(_r.SUBMITTED, _r.TERMINATING)),
        _r.PROVISIONING: In(follow,      to=(_r.SUBMITTED, _r.PENDING, _r.RUNNING, _r.TERMINATING)),
        _r.RUNNING:      In(follow,      to=(_r.SUBMITTED, _r.PENDING, _r.PROVISIONING, _r.TERMINATING)),
        _r.TERMINATING:  In(wind_down,   to=(_r.PENDING, _r.TERMINATED, _r.FAILED, _r.DONE)),
    },
)  # fmt: skip

_j = JobStatus
_ends = (_j.TERMINATED, _j.ABORTED, _j.FAILED, _j.DONE)
JOB: Lifecycle[JobStatus, JobStep] = Lifecycle(
    "job",
    start=_j.SUBMITTED,
    rows={
        # while in          do this           then go to
        _j.SUBMITTED:    In(await_placement,  to=(_j.PROVISIONING, _j.TERMINATING)),
        _j.PROVISIONING: In(start,            to=(_j.SUBMITTED, _j.PULLING, _j.RUNNING, _j.TERMINATING)),
        _j.PULLING:      In(watch,            to=(_j.RUNNING, _j.TERMINATING)),
        _j.RUNNING:      In(watch,            to=(_j.TERMINATING,)),
        _j.TERMINATING:  In(stop,             to=_ends),
    },
)  # fmt: skip

_i = InstanceStatus
INSTANCE: Lifecycle[InstanceStatus, InstanceStep] = Lifecycle(
    "instance",
    start=_i.PENDING,
    rows={
        # while in          do this     then go to
        _i.PENDING:      In(launch,     to=(_i.PROVISIONING, _i.TERMINATING, _i.TERMINATED)),
        _i.PROVISIONING: In(boot,       to=(_i.IDLE, _i.BUSY, _i.TERMINATING)),
        _i.IDLE:         In(idle,       to=(_i.BUSY, _i.TERMINATING)),
        _i.BUSY:         In(work,       to=(_i.IDLE, _i.TERMINATING)),
        _i.TERMINATING:  In(terminate,  to=(_i.TERMINATED,)),
    },
)  # fmt: skip


LIFECYCLES: dict[str, Lifecycle[Any, Any]] = {table.name: table for table in (RUN, JOB, INSTANCE)}
"""The table of every kind in `store/kinds/`."""


def check_move(kind: str, old: StrEnum, new: StrEnum) -> None:
    """Raise `IllegalMove` unless the table of this kind has the move."""
    LIFECYCLES[kind].check(old, new)
