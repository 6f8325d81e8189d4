"""The acknowledgements of data planes, as facts on jobs."""

from dataclasses import replace

from dstack.store import commits, objects
from dstack.store.tx import Tx


def drained(tx: Tx, job_id: str, server_id: str) -> None:
    """Write down that the data plane of a server has no request of a draining replica left.

    Args:
        server_id: the server's `Leases.replica_id`.
    """
    job = objects.find_job(tx, job_id)
    if job is None or job.draining_since is None or job.finished_at is not None or server_id in job.drained_by:
        return
    commits.record(tx, replace(job, drained_by=(*job.drained_by, server_id)))
