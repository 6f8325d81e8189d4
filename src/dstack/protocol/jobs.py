"""Words about a run's jobs, alike for the client and the server."""

from collections.abc import Iterable


def no_job_text(run_name: str, replica: int, node: int, known: Iterable[tuple[int, int]]) -> str:
    """Return that a run lacks a job, and the jobs that it has.

    Args:
        run_name: the run.
        replica: the replica that was asked for.
        node: the job of that replica.
        known: replica and node of each job of the run.

    Examples:
        >>> no_job_text("train", 0, 3, [(0, 0), (0, 1)]), no_job_text("train", 0, 1, [(0, 0)])
        ('The run `train` has no job 3; it has jobs 0 and 1', 'The run `train` has no job 1; it has only job 0')
        >>> no_job_text("serve", 5, 0, [(0, 0), (1, 0), (2, 0)]), no_job_text("serve", 0, 1, [])
        ('The run `serve` has no replica 5; it has replicas 0 to 2', 'The run `serve` has no job 1')
    """
    jobs = set(known)
    nodes = sorted(one for its_replica, one in jobs if its_replica == replica)
    if jobs and not nodes:
        return f"The run `{run_name}` has no replica {replica}; it has {_counted('replica', {one for one, _ in jobs})}"
    where = f" in replica {replica}" if replica or any(one for one, _ in jobs) else ""
    has = f"; it has {_counted('job', nodes)}" if nodes else ""
    return f"The run `{run_name}` has no job {node}{where}{has}"


def _counted(noun: str, numbers: Iterable[int]) -> str:
    first, *others = sorted(numbers)
    if not others:
        return f"only {noun} {first}"
    *between, last = others
    if between and last - first == len(others):
        return f"{noun}s {first} to {last}"
    return f"{noun}s {', '.join(map(str, (first, *between)))} and {last}"
