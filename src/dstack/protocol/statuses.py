"""All statuses and reasons of all objects. These strings of the API are never renamed or removed."""

from enum import StrEnum


class RunStatus(StrEnum):
    """The status of a run.

    Examples:
        >>> RunStatus("done").is_finished()
        True
    """

    PENDING = "pending"
    SUBMITTED = "submitted"
    PROVISIONING = "provisioning"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    FAILED = "failed"
    DONE = "done"

    def is_finished(self) -> bool:
        """Return whether the run has ended. A finished run never changes again."""
        return self in (RunStatus.TERMINATED, RunStatus.FAILED, RunStatus.DONE)


class JobStatus(StrEnum):
    """The status of one attempt of a job."""

    SUBMITTED = "submitted"
    PROVISIONING = "provisioning"
    PULLING = "pulling"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    ABORTED = "aborted"
    FAILED = "failed"
    DONE = "done"

    def is_finished(self) -> bool:
        """Return whether the attempt has ended. A finished attempt never changes again."""
        return self in (JobStatus.TERMINATED, JobStatus.ABORTED, JobStatus.FAILED, JobStatus.DONE)


class JobReason(StrEnum):
    """The reason why a job ends."""

    # done
    EXITED = "exited"
    # failed
    NO_CAPACITY = "no_capacity"
    INTERRUPTED = "interrupted"
    START_TIMEOUT = "start_timeout"
    VOLUME_ERROR = "volume_error"
    CREATING_CONTAINER_ERROR = "creating_container_error"
    CONTAINER_EXITED_WITH_ERROR = "container_exited_with_error"
    EXECUTOR_ERROR = "executor_error"
    INSTANCE_UNREACHABLE = "instance_unreachable"
    HOST_ERROR = "host_error"
    PORTS_BINDING_FAILED = "ports_binding_failed"
    # terminated
    STOPPED_BY_USER = "stopped_by_user"
    ABORTED_BY_USER = "aborted_by_user"
    SCALED_DOWN = "scaled_down"
    REPLACED = "replaced"
    MAX_DURATION_EXCEEDED = "max_duration_exceeded"
    INACTIVITY = "inactivity"
    UTILIZATION = "utilization"
    SERVER = "server"


class InstanceStatus(StrEnum):
    """The status of an instance."""

    PENDING = "pending"
    PROVISIONING = "provisioning"
    IDLE = "idle"
    BUSY = "busy"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


class InstanceReason(StrEnum):
    """The reason why an instance ends."""

    USER = "user"
    IDLE_TIMEOUT = "idle_timeout"
    GAVE_WAY = "gave_way"
    LAUNCH_TIMEOUT = "launch_timeout"
    PROVISIONING_TIMEOUT = "provisioning_timeout"
    ERROR = "error"
    JOB_FINISHED = "job_finished"
    UNREACHABLE = "unreachable"
    NO_OFFERS = "no_offers"
    BACKEND_REMOVED = "backend_removed"


def cause_text(reason: str | None, detail: str) -> str:
    """Return a text for people about the end of a run or job; empty if neither reason nor detail is known.

    Args:
        reason: the reason's string, such as `no_capacity`.
        detail: details of the reason.

    Examples:
        >>> cause_text("no_capacity", "asked 64"), cause_text("container_exited_with_error", "exit code 3")
        ('no capacity: asked 64', 'exit code 3')
        >>> cause_text("creating_container_error", "The job's machine has no Python 3.10")
        "The job's machine has no Python 3.10"
        >>> cause_text("server", "")
        'ended with the other jobs of its run'
    """
    if reason == JobReason.SERVER and not detail:
        return "ended with the other jobs of its run"
    if reason in (JobReason.CONTAINER_EXITED_WITH_ERROR, JobReason.CREATING_CONTAINER_ERROR) and detail:
        return detail  # the detail is the reason, and a job that is a process has no container
    return ": ".join(filter(None, [(reason or "").replace("_", " "), detail]))
