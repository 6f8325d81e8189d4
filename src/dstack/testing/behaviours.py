"""What jobs do: how long they take, what they print, and how each attempt exits."""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace

from dstack.protocol.agent import JobOrder

_SCRIPT = re.compile(r"simulate (\d+) (\d+) (\d+)")
"""In a job's own script: seconds, exit code, bytes that it prints."""


_REVISION = re.compile(r"# revision (\d+)")
FAILS, NEVER_READY = "# fails", "# never ready"
"""In the scripts of revisions that do not work."""


def revision_in(script: str) -> int:
    """Return the number of the revision that a job's script comes from: users name it in each script but the first."""
    named = _REVISION.search(script)
    return 1 if named is None else int(named[1])


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the jobs of one run do."""

    exits: tuple[int, ...] = (0,)
    """The exit codes of the attempts, one after the other; the last one is that of all that follow."""
    takes_s: float = 0.0
    prints: bytes = b""
    ready_after_s: float | None = None
    """When a replica of a service is ready; None where its agent says nothing of it."""


def who_of(order: JobOrder) -> tuple[str, str]:
    """The run of a job, and which of the run's jobs it is: `replica/node`."""
    return order.env["DSTACK_RUN_ID"], f"{order.env['DSTACK_REPLICA_NUM']}/{order.env['DSTACK_NODE_RANK']}"


class Behaviours:
    """What every run's jobs do, by the name of the run; others as their scripts say, or at once and well."""

    def __init__(self) -> None:
        self._of: dict[str, Behaviour] = {}
        self._started: Counter[tuple[str, str]] = Counter()

    def set(self, run_name: str, behaviour: Behaviour) -> None:
        """Have the jobs of a run behave like this from now on."""
        self._of[run_name] = behaviour

    def next_of(self, order: JobOrder) -> tuple[Behaviour, int]:
        """What a job that starts now does, and its exit code."""
        behaviour = _spoilt(self._of.get(order.run_name) or _in_script(order.script), order.script)
        who = who_of(order)
        attempt = min(self._started[who], len(behaviour.exits) - 1)
        self._started[who] += 1
        return behaviour, behaviour.exits[attempt]


def _spoilt(behaviour: Behaviour, script: str) -> Behaviour:
    if FAILS in script:
        return replace(behaviour, exits=(1,), takes_s=1.0, ready_after_s=math.inf)
    return replace(behaviour, ready_after_s=math.inf) if NEVER_READY in script else behaviour


def _in_script(script: str) -> Behaviour:
    match = _SCRIPT.search(script)
    if match is None:
        return Behaviour()
    seconds, code, size = map(int, match.groups())
    return Behaviour((code,), seconds, b"x" * size)
