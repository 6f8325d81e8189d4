"""SUBMITTED: in the queue; the scheduler takes it from here."""

from dataclasses import replace

from dstack.domain.objects import JobView, Next
from dstack.protocol.statuses import JobStatus


def await_placement(view: JobView) -> Next:
    """Leave the queue when the run does not want the job any more."""
    job = view.job
    if job.stop_asked is None:
        return Next()
    return Next((replace(job, status=JobStatus.TERMINATING, status_since=view.now, reason=job.stop_asked),))
