"""What the processes below others use, from `/proc`: for jobs that have no control group of their own.

The CPU time of a process that has ended is that of its parent from then on, once this has waited for it (`cutime`), and
nobody's where the parent does not want to know (it ignores SIGCHLD). Orphans are waited for by the job's supervisor.
So the sum over a tree is exact but for the moment between reading a parent and reading its child, and for what was
never waited for; it then falls, and a rate is too low for one interval.

Memory that processes share is counted once (the proportional set size), which plain sizes would count for each.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dstack.agent.metrics.usage import Usage

KIB_PER_MIB = 1024
PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024

_PARENT, _TIMES, _PAGES = 1, slice(11, 15), 21
"""Places behind the name in a `stat`: the times are its own, in user and kernel mode, and those of ended children."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, or what is left of one that nobody has waited for yet."""

    parent: int
    cpu_s: float
    """Its own time, and that of children it has waited for."""
    memory_kib: float
    """Its size in memory, what it shares with others included."""


def read_processes(proc: Path = PROC) -> dict[int, Process]:
    """All processes there are."""
    found = {}
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                # The name, in parentheses, may hold anything.
                words = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            cpu_s = sum(int(ticks) for ticks in words[_TIMES]) * TICK_S
            found[int(name)] = Process(int(words[_PARENT]), cpu_s, int(words[_PAGES]) * PAGE_KIB)
    return found


def owners(processes: Mapping[int, Process], roots: Mapping[int, str]) -> dict[int, str]:
    """Whose each process is that is, or comes from, one of `roots`; the nearest root counts."""
    owner_of: dict[int, str | None] = dict(roots)
    for pid in processes:
        path = []
        while pid not in owner_of and pid in processes:
            owner_of[pid] = None  # ends a circle, as a number that is used again while we read may make one
            path.append(pid)
            pid = processes[pid].parent
        for passed in path:
            owner_of[passed] = owner_of.get(pid)
    return {pid: owner for pid, owner in owner_of.items() if owner is not None and pid in processes}


def usage_of(pids: Iterable[int], supervisor: int, processes: Mapping[int, Process], proc: Path = PROC) -> Usage:
    """What some processes use together.

    Args:
        supervisor: one of them, whose memory is not the job's; its time is, with that of all that it has waited for.
    """
    cpu_s = memory_kib = 0.0
    for pid in pids:
        cpu_s += processes[pid].cpu_s
        if pid != supervisor:
            own_kib = _proportional_kib(proc / str(pid) / "smaps_rollup")
            memory_kib += processes[pid].memory_kib if own_kib is None else own_kib
    return Usage(cpu_s, memory_kib / KIB_PER_MIB)


def _proportional_kib(path: Path) -> int | None:
    try:
        text = path.read_bytes()
    except OSError:
        return None  # not ours to read, or an old kernel's
    line = next((line for line in text.splitlines() if line.startswith(b"Pss:")), None)
    return None if line is None else int(line.split()[1])
