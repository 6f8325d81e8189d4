"""The meaning of a reason: the final status, the event for retry policies, the text for people."""

from dstack.protocol.agent import JobReport
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus

_R = JobReason

UNWANTED = frozenset({_R.SCALED_DOWN, _R.REPLACED})
"""Why a service wants no more of a replica: nothing takes its place."""

_TERMINATED = UNWANTED | frozenset(
    {_R.STOPPED_BY_USER, _R.MAX_DURATION_EXCEEDED, _R.INACTIVITY, _R.UTILIZATION, _R.SERVER}
)


def job_status_of(reason: JobReason) -> JobStatus:
    """The final status of a job that ends for this reason."""
    if reason is _R.EXITED:
        return JobStatus.DONE
    if reason is _R.ABORTED_BY_USER:
        return JobStatus.ABORTED
    return JobStatus.TERMINATED if reason in _TERMINATED else JobStatus.FAILED


def run_status_of(reason: JobReason) -> RunStatus:
    """The final status of a run that ends for this reason."""
    match job_status_of(reason):
        case JobStatus.DONE:
            return RunStatus.DONE
        case JobStatus.FAILED:
            return RunStatus.FAILED
        case _:
            return RunStatus.TERMINATED


def retry_event_of(reason: JobReason) -> str | None:
    """Return `no-capacity`, `interruption` or `error`, the event for a retry policy; None for a success."""
    if job_status_of(reason) is not JobStatus.FAILED:
        return None
    if reason is _R.NO_CAPACITY:
        return "no-capacity"
    return "interruption" if reason in (_R.INTERRUPTED, _R.INSTANCE_UNREACHABLE) else "error"


def reason_of(report: JobReport, stop_asked: JobReason | None) -> tuple[JobReason, str]:
    """Why a job ended, from what its agent reports, and the detail for people."""
    match report.end:
        case "exited" if report.exit_code == 0:
            return _R.EXITED, ""
        case "exited" if stop_asked is None or report.signal is None:
            return _R.CONTAINER_EXITED_WITH_ERROR, ": ".join(filter(None, [_exit_of(report), report.message]))
        case "exited" | "stopped":
            return stop_asked or _R.SERVER, ""
        case "max_duration":
            return _R.MAX_DURATION_EXCEEDED, report.message
        case "start_failed":
            return _R.CREATING_CONTAINER_ERROR, report.message
        case "host_failed":
            return _R.HOST_ERROR, report.message
        case "ports_binding_failed":
            return _R.PORTS_BINDING_FAILED, report.message
        case _:
            return _R.EXECUTOR_ERROR, report.message or "the agent lost the job"


def _exit_of(report: JobReport) -> str:
    if report.signal is not None:
        return f"killed by signal {report.signal}"
    return f"exit code {report.exit_code}"
