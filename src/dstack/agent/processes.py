"""Finding and ending the processes of a job, by what the kernel says about them."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator

MARKER = "DSTACK_JOB_ID"
"""The variable that every process of a job carries, unless it took care to drop it."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START = 19
"""Place behind the name in a `stat`."""

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
        words = _stat_of(pid)
        if words and words[0] not in (b"Z", b"X"):
            found[pid] = int(words[1])
    return found


def is_frozen(pid: int) -> bool:
    """Whether a process is stopped, by a signal or by a debugger."""
    words = _stat_of(pid)
    return bool(words) and words[0] in (b"T", b"t")


def age_s(pid: int) -> float:
    """How many seconds ago a process began; 0 where it is gone."""
    words = _stat_of(pid)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(words[_START]) / TICKS_PER_S if words else 0.0


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
    """All living processes that carry a job's marker, and their descendants.

    Not this one, and not those that only it leads to: where an agent was itself started in a job, other jobs are below.
    """
    alive = parents()
    alive.pop(os.getpid(), None)
    found = {pid for pid in alive if marker_of(pid) == job_id}
    return found | below(found, alive)


def marker_of(pid: int) -> str | None:
    """The job whose marker a process carries; None where it carries none, or does not let us look."""
    return variable_of(pid, MARKER)


def variable_of(pid: int, name: str) -> str | None:
    """Return a variable of the environment in which a process began; None if it has none, or does not show it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    start = f"{name}=".encode()
    return next((os.fsdecode(one[len(start) :]) for one in variables if one.startswith(start)), None)


def grouped(name: str) -> set[int]:
    """All living processes in control groups that bear a name, such as a container's id.

    Whoever may not read what another user's process carries may still read this.
    """
    return {pid for pid in parents() if is_grouped(pid, name)}


def is_grouped(pid: int, name: str) -> bool:
    """Whether a living process is in control groups that bear a name."""
    return is_named(_groups_of(pid), name)


def is_named(groups: str, name: str) -> bool:
    """Whether control groups bear a name.

    Args:
        groups: those of a process, as its file `cgroup` lists them.

    Examples:
        >>> is_named("0::/system.slice/docker-c0ffee.scope", "c0ffee")
        True

        Podman names the group of its own process above a container after the container, too:

        >>> is_named("0::/machine.slice/libpod-conmon-c0ffee.scope", "c0ffee")
        False
    """
    return name in groups.replace(f"conmon-{name}", "")


def _stat_of(pid: int) -> list[bytes]:
    """What the kernel says of a process, from its state on; nothing where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything.
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _groups_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return file.read()
    except OSError:
        return ""


def send(number: signal.Signals, targets: Iterable[int]) -> bool:
    """Send a signal to each; those that are gone meanwhile, or that are not ours, are left alone.

    Returns: whether all were ours.
    """
    all_ours = True
    for pid in targets:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            all_ours = False
    return all_ours


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
    return end_all(lambda: marked(job_id))


def end_all(find: Callable[[], set[int]]) -> bool:
    """Kill whatever is found, again and again. Blocks for seconds at most. Returns whether nothing is left."""
    for _ in range(END_PASSES_MAX):
        if not find():
            return True
        kill_all(find)
        select.select([], [], [], PASS_S)
    return False
