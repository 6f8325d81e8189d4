"""Side effects as values.

A step has no side effects: it returns intents. The engine stores them in the same transaction as the new status.
It performs them outside any transaction, stores the outcome, and wakes the step again. A crash at any point leaves an
intent to perform again or an outcome to read, so every performer is idempotent by the object's id. Intents of one
object are performed strictly in order.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from dstack.errors import DstackError
from dstack.kit.plain import to_plain


@dataclass(frozen=True, slots=True)
class LaunchMachine:
    """Buy the machine of an instance, or find the one already bought for it."""

    kind: ClassVar[str] = "launch_machine"
    object_kind: ClassVar[str] = "instance"
    object_id: str

    @property
    def instance_id(self) -> str:
        """The instance of the machine."""
        return self.object_id


@dataclass(frozen=True, slots=True)
class TerminateMachine:
    """End the machine of an instance; asked again until the backend confirms it."""

    kind: ClassVar[str] = "terminate_machine"
    object_kind: ClassVar[str] = "instance"
    object_id: str

    @property
    def instance_id(self) -> str:
        """The instance of the machine."""
        return self.object_id


@dataclass(frozen=True, slots=True)
class StartJob:
    """Hand a job to the agent of its instance."""

    kind: ClassVar[str] = "start_job"
    object_kind: ClassVar[str] = "job"
    object_id: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class StopJob:
    """The agent ends a job and all its processes."""

    kind: ClassVar[str] = "stop_job"
    object_kind: ClassVar[str] = "job"
    object_id: str
    instance_id: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class ForgetJob:
    """Let the agent delete what it keeps of an ended job."""

    kind: ClassVar[str] = "forget_job"
    object_kind: ClassVar[str] = "job"
    object_id: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class LetIn:
    """The agent of a job authorizes a key for it. Each grant is an object of its own, so grants do not wait for each
    other."""

    kind: ClassVar[str] = "let_in"
    object_kind: ClassVar[str] = "grant"
    object_id: str
    instance_id: str
    job_id: str
    public_key: str


Intent: TypeAlias = LaunchMachine | TerminateMachine | StartJob | StopJob | ForgetJob | LetIn

KINDS: dict[str, type[Intent]] = {
    kind.kind: kind for kind in (LaunchMachine, TerminateMachine, StartJob, StopJob, ForgetJob, LetIn)
}


def to_body(intent: Intent) -> dict[str, Any]:
    """An intent as JSON; its kind is kept apart."""
    plain: dict[str, Any] = to_plain(intent)
    return plain


def intent_of(kind: str, body: dict[str, Any]) -> Intent:
    """The intent that `to_body` wrote."""
    return KINDS[kind](**body)


@dataclass(frozen=True, slots=True)
class Pending:
    """Asked for, not answered yet."""


@dataclass(frozen=True, slots=True)
class Done:
    """It happened; `value` is what the performer learned."""

    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not happen by being asked again."""

    error: DstackError


Outcome: TypeAlias = Pending | Done | Failed
