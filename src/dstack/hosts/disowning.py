"""Ends and removes the jobs of an agent that are not on record at its instance."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from dstack.domain.specs import STOP_GRACE_S
from dstack.errors import AgentRefused
from dstack.hosts.inbox import Disowning, Strangers

log = logging.getLogger(__name__)

Call = Callable[[str, Mapping[str, object]], Awaitable[None]]


class Disowned:
    """The strangers on one instance that are still to be ended or removed."""

    def __init__(self, call: Call, when_removed: Callable[[str], None]) -> None:
        self.came = asyncio.Event()
        self._call = call
        self._when_removed = when_removed
        self._open: dict[str, Disowning] = {}

    def begin(self) -> None:
        """Begin a connection: the agent reports all jobs again."""
        self._open.clear()

    def add(self, strangers: Strangers) -> None:
        """Take up some. They are as many as the reports that are taken of strangers."""
        self._open |= strangers
        if strangers:
            self.came.set()

    def begin_minute(self) -> None:
        """Try those again that the agent refused."""
        if self._open:
            self.came.set()

    async def perform(self) -> None:
        """Command what is open.

        Raises:
            HostUnreachable: the agent does not answer.
        """
        for job_id, disowning in list(self._open.items()):
            grace = {"grace_s": STOP_GRACE_S} if disowning is Disowning.STOP else {}
            try:
                await self._call(disowning, {"job_id": job_id, **grace})
            except AgentRefused as error:
                log.info("The job %s, which is on no record, stays for a minute: %s", job_id, error.message)
                continue
            if self._open.get(job_id) is disowning:
                del self._open[job_id]
            if disowning is Disowning.FORGET:
                self._when_removed(job_id)
