"""Side effects as values.

A step has no side effects: it returns intents. The engine stores them in the same transaction as the new status.
It performs them outside any transaction, stores the outcome, and wakes the step again. A crash at any point leaves an
intent to perform again or an outcome to read, so every performer is idempotent by the object's id. Intents of one
object are performed strictly in order.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, TypeAlias

from dstack.errors import DstackError
from dstack.kit.plain import to_plain

HOSTS = "hosts"
"""The lane of the calls of agents."""

LAUNCHED_WITHIN = timedelta(minutes=10)
"""The longest time that a launch is tried. Clouds answer it within seconds, and slow ones within five minutes
(`LAUNCH_TIMEOUT_S`). The other five are for a short outage. After that, a job is better off elsewhere.
"""


@dataclass(frozen=True, slots=True)
class Intent:
    """A side effect on behalf of an object, the owner."""

    kind: ClassVar[str]
    object_kind: ClassVar[str]
    replaces: ClassVar[bool] = False
    """Whether it has a number, and takes the place of answered ones of its kind: their outcomes are of no more use."""
    within: ClassVar[timedelta | None] = None
    """The longest time that one server tries it; then it has failed as `Unanswered`. None without limit."""
    object_id: str

    @property
    def shard_key(self) -> str:
        """The id by which servers share intents out: of an instance, or of an owner without one."""
        return self.object_id

    @property
    def lane(self) -> str:
        """The name of the queue that bounds its calls: a full lane delays no other lane."""
        return HOSTS


@dataclass(frozen=True, slots=True)
class LaunchMachine(Intent):
    """Buy the machine of an instance, or find the one already bought for it."""

    kind: ClassVar[str] = "launch_machine"
    object_kind: ClassVar[str] = "instance"
    within: ClassVar[timedelta | None] = LAUNCHED_WITHIN
    backend: str = field(default="", compare=False)

    @property
    def lane(self) -> str:
        """Launches at one backend."""
        return f"launches at {self.backend}"


@dataclass(frozen=True, slots=True)
class LocateMachine(Intent):
    """Ask for the state and the address of a machine that boots; asked again and again, each time under a new number.

    A backend that does not answer is not asked again for the same number: the end of the machine would wait for it.
    """

    kind: ClassVar[str] = "locate_machine"
    object_kind: ClassVar[str] = "instance"
    replaces: ClassVar[bool] = True
    number: int
    """How many look-ups fit between the launch and this one."""
    backend: str = field(default="", compare=False)

    @property
    def lane(self) -> str:
        """Look-ups at one backend."""
        return f"look-ups at {self.backend}"


@dataclass(frozen=True, slots=True)
class ShutDownAgent(Intent):
    """The agent of an instance ends its jobs, each with its own grace, and itself. The machine ends after that."""

    kind: ClassVar[str] = "shut_down_agent"
    object_kind: ClassVar[str] = "instance"
    grace_s: float = field(default=0.0, compare=False)
    """The longest grace of its jobs."""


@dataclass(frozen=True, slots=True)
class TerminateMachine(Intent):
    """End the machine of an instance; asked again until the backend confirms it."""

    kind: ClassVar[str] = "terminate_machine"
    object_kind: ClassVar[str] = "instance"
    backend: str = field(default="", compare=False)

    @property
    def lane(self) -> str:
        """Terminations at one backend: launches that hang delay none of them."""
        return f"terminations at {self.backend}"


@dataclass(frozen=True, slots=True)
class AgentIntent(Intent):
    """A call of the agent of an instance."""

    instance_id: str

    @property
    def shard_key(self) -> str:
        """The instance of the agent."""
        return self.instance_id


@dataclass(frozen=True, slots=True)
class StartJob(AgentIntent):
    """Hand a job to the agent of its instance."""

    kind: ClassVar[str] = "start_job"
    object_kind: ClassVar[str] = "job"


@dataclass(frozen=True, slots=True)
class StopJob(AgentIntent):
    """The agent ends a job and all its processes."""

    kind: ClassVar[str] = "stop_job"
    object_kind: ClassVar[str] = "job"
    grace_s: float


@dataclass(frozen=True, slots=True)
class ForgetJob(AgentIntent):
    """Let the agent delete what it keeps of an ended job."""

    kind: ClassVar[str] = "forget_job"
    object_kind: ClassVar[str] = "job"


@dataclass(frozen=True, slots=True)
class LetIn(AgentIntent):
    """The agent of a job authorizes a key for it. Each grant is an object of its own, so grants do not wait for each
    other."""

    kind: ClassVar[str] = "let_in"
    object_kind: ClassVar[str] = "grant"
    job_id: str
    public_key: str


INTENTS: dict[str, type[Intent]] = {
    kind.kind: kind
    for kind in (
        *(LaunchMachine, LocateMachine, ShutDownAgent, TerminateMachine),
        *(StartJob, StopJob, ForgetJob, LetIn),
    )
}


def to_body(intent: Intent) -> dict[str, Any]:
    """An intent as JSON; its kind is kept apart."""
    plain: dict[str, Any] = to_plain(intent)
    return plain


def intent_of(kind: str, body: dict[str, Any]) -> Intent:
    """The intent that `to_body` wrote."""
    return INTENTS[kind](**body)


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
