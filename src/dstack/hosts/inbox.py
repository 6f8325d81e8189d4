"""The two sides of a link (`hosts.link`): the way to an agent, and the receiver of what the agent reports."""

from asyncio import StreamReader, StreamWriter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from dstack.protocol.agent import Engine, HostResources, JobReport, LogGap, Point


class Disowning(StrEnum):
    """The command for a job that an agent has and that is not on record at its instance."""

    STOP = "stop"
    FORGET = "forget"


Strangers: TypeAlias = Mapping[str, Disowning]
"""The jobs to disown, by id.

They stay off the record, since a job of the same id may run elsewhere. An agent repeats its reports after a break.
"""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The first report of an agent, about all that it has."""

    resources: HostResources
    ssh_port: int | None
    ssh_host_key: str | None
    reports: tuple[JobReport, ...]


class Inbox(Protocol):
    """Receives what agents report."""

    async def jobs_on(self, instance_id: str) -> Collection[str]:
        """Return the ids of the unfinished jobs on an instance: reports of others are not taken in great numbers."""
        ...

    async def welcomed(self, instance_id: str, welcome: Welcome) -> tuple[dict[tuple[str, str], int], Strangers]:
        """The agent answered.

        Returns from which byte on the log streams (job id, stream) are wanted, and the jobs to disown.
        """
        ...

    async def disconnected(self, instance_id: str) -> None: ...

    async def not_started(self, instance_id: str, why: str) -> None:
        """The agent could not be started, or not be understood; it is tried again."""

    async def reported(self, instance_id: str, reports: list[JobReport]) -> Strangers:
        """Reports came. Returns the jobs to disown."""
        ...

    async def logged(self, job_id: str, stream: str, offset: int, at: float, data: bytes) -> int:
        """Log bytes came. Returns how far the log is stored from now on."""
        ...

    async def lost(self, job_id: str, stream: str, gap: LogGap) -> int:
        """Log bytes will never come. Returns how far the log is stored from now on."""
        ...

    def measured(self, instance_id: str, points: Mapping[str, Sequence[Point]]) -> None:
        """Points of some jobs came; they are stored later."""
        ...

    async def ssh_ready(self, instance_id: str, port: int, host_key: str) -> None: ...

    async def engine_found(self, instance_id: str, engine: Engine) -> None: ...

    async def blob(self, instance_id: str, hash: str) -> bytes | None: ...


class Connector(Protocol):
    """Knows the way to one host's agent."""

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open a connection; raises `HostTrouble` where the host cannot start the agent."""
        ...
