"""The agent's last resort: a supervisor that does not do what is due is continued, and in the end killed."""

import asyncio
import signal
from enum import Enum

from dstack.agent import processes
from dstack.agent.supervisor import GIVE_UP_S

CONTINUE_AFTER_S = 5.0
"""So late a supervisor that works never is, but where the job's processes do not end."""
FROZEN_MAX_S = 15.0
KILL_AFTER_S = GIVE_UP_S + 30.0
"""A supervisor that works has given up before."""
LOOK_EVERY_S = 1.0


class Measure(Enum):
    """What to do about a supervisor."""

    WAIT = "wait"
    CONTINUE = "continue"
    """It may have been stopped, and goes on by SIGCONT."""
    KILL = "kill"


def measure(overdue_s: float, is_frozen: bool) -> Measure:
    """What to do about a supervisor that should have brought the end about some seconds ago.

    Args:
        overdue_s: how many seconds; negative while its time has not come.
        is_frozen: whether it is stopped at this moment, by SIGSTOP or a debugger.

    Examples:
        >>> [measure(seconds, is_frozen=True).value for seconds in (1, 6, 16)]
        ['wait', 'continue', 'kill']
        >>> [measure(seconds, is_frozen=False).value for seconds in (6, 16, 160)]
        ['continue', 'continue', 'kill']
    """
    if overdue_s >= (FROZEN_MAX_S if is_frozen else KILL_AFTER_S):
        return Measure.KILL
    return Measure.CONTINUE if overdue_s >= CONTINUE_AFTER_S else Measure.WAIT


async def until_lost(pid: int, due_s: float) -> None:
    """Wait until a supervisor is to be killed, which should have brought an end about. To be cancelled if it is gone.

    Args:
        due_s: when its time comes, in the loop's seconds.
    """
    loop = asyncio.get_running_loop()
    while (verdict := measure(loop.time() - due_s, processes.is_frozen(pid))) is not Measure.KILL:
        if verdict is Measure.CONTINUE:
            processes.send(signal.SIGCONT, [pid])
        await asyncio.sleep(max(LOOK_EVERY_S, due_s + CONTINUE_AFTER_S - loop.time()))


def end_below(pid: int) -> None:
    """Kill a supervisor and all that is below it, also what has dropped the job's marker. Blocks."""
    # It must not take a killed job for one that has ended by itself.
    processes.send(signal.SIGSTOP, [pid])
    processes.kill_all(lambda: processes.descendants(pid))
    processes.send(signal.SIGKILL, [pid])
