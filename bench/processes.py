"""What processes cost, and how to end them. Reads `/proc`: benchmarks run on Linux."""

import os
import select
import signal
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
END_TIMEOUT_S = 20.0
PARENT, USER_TICKS, SYSTEM_TICKS = 1, 11, 12
"""Columns of `/proc/PID/stat`, counted from the first after the program's name."""


def cpu_s(pids: list[int]) -> float:
    """The processor seconds that the processes have used so far."""
    return sum(int(_stat(pid)[column]) for pid in pids for column in (USER_TICKS, SYSTEM_TICKS)) / TICKS_PER_S


def rss_mb(pids: list[int]) -> float:
    """Their resident memory in megabytes (10^6 bytes), shared pages counted for each."""
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024 / 1e6


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {int(path.name): int(_stat(int(path.name))[PARENT]) for path in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def end(pid: int) -> None:
    """Ask a process to leave, and wait until it has."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        os.kill(pid, signal.SIGTERM)
        if not select.select([watched], [], [], END_TIMEOUT_S)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(watched)


def rest(seconds: float) -> None:
    """Let time pass."""
    time.sleep(seconds)


def _stat(pid: int) -> list[str]:
    """The columns after the program's name, which may hold anything; zeros for a process that has just gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * (SYSTEM_TICKS + 1)
