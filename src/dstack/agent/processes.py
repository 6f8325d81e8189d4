"""Finding and ending the processes of a job, by what the kernel says about them."""

import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator

MARKER = "DSTACK_JOB_ID"
"""The variable that every process of a job carries, unless it took care to drop it."""

FREEZE_PASSES_MAX = 50
END_PASSES_MAX = 200
PASS_S = 0.02


def pids() -> Iterator[int]:
    """Every process there is."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def parents() -> dict[int, int]:
    """The parent of every process that is no zombie."""
    found: dict[int, int] = {}
    for pid in pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name, in parentheses, may hold anything.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        if state not in (b"Z", b"X"):
            found[pid] = int(parent)
    return found


def below(roots: Iterable[int], parent_of: dict[int, int]) -> set[int]:
    """All descendants of `roots`, without these."""
    children: dict[int, list[int]] = {}
    for pid, parent in parent_of.items():
        children.setdefault(parent, []).append(pid)
    todo, found = list(roots), set[int]()
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def descendants(root: int) -> set[int]:
    """All living descendants of a process."""
    return below([root], parents())


def marked(job_id: str) -> set[int]:
    """All living processes that carry a job's marker, and their descendants."""
    alive = parents()
    found = {pid for pid in alive if marker_of(pid) == job_id}
    return (found | below(found, alive)) - {os.getpid()}


def marker_of(pid: int) -> str | None:
    """The job whose marker a process carries; None where it carries none, or does not let us look."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    start = f"{MARKER}=".encode()
    return next((os.fsdecode(one[len(start) :]) for one in variables if one.startswith(start)), None)


def send(number: signal.Signals, targets: Iterable[int]) -> None:
    """Send a signal to each; those that are gone meanwhile, or that are not ours, are left alone."""
    for pid in targets:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_all(find: Callable[[], set[int]]) -> None:
    """One sweep: everything found is frozen first, so that it cannot fork away from under the sweep, then killed."""
    frozen: set[int] = set()
    for _ in range(FREEZE_PASSES_MAX):
        new = find() - frozen
        if not new:
            break
        send(signal.SIGSTOP, new)
        frozen |= new
    send(signal.SIGKILL, frozen)


def end_marked(job_id: str) -> bool:
    """Kill whatever carries a job's marker. Blocks for seconds at most. Returns whether nothing is left."""
    for _ in range(END_PASSES_MAX):
        if not marked(job_id):
            return True
        kill_all(lambda: marked(job_id))
        select.select([], [], [], PASS_S)
    return False
