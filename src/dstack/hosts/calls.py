"""Commands to one agent that wait for its reply."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from dstack.errors import AgentRefused, BackendError, HostUnreachable, error_of_code
from dstack.protocol.agent import Reply

CALLS_OPEN_MAX = 1000


class Calls:
    """The open calls, by their numbers."""

    def __init__(self) -> None:
        self._open: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count(1)

    @contextmanager
    def one(self) -> "Iterator[tuple[int, asyncio.Future[Reply]]]":
        """Open a call. Yields its number, and the future of its reply.

        Raises:
            HostUnreachable: too many are open.
        """
        if len(self._open) >= CALLS_OPEN_MAX:
            raise HostUnreachable(f"The agent has {CALLS_OPEN_MAX} unanswered commands")
        number = next(self._numbers)
        call = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            yield number, call
        finally:
            del self._open[number]

    def answer(self, reply: Reply) -> bool:
        """Pass a reply on. Returns whether it was waited for."""
        call = None if reply.id is None else self._open.get(reply.id)
        if call is None or call.done():
            return False
        call.set_result(reply)
        return True

    def fail(self) -> None:
        """End all calls: the connection is broken."""
        for call in self._open.values():
            if not call.done():
                call.set_exception(HostUnreachable("The connection to the agent broke before it answered"))


def check_reply(reply: Reply) -> None:
    """Raise the error that a reply has, where it has one.

    Raises:
        AgentRefused: the agent refused, and so for other errors of a host.
    """
    if (error := reply.error) is not None:
        known = error_of_code(error.code, error.message, error.hint)
        raise known if isinstance(known, BackendError) else AgentRefused(error.message, hint=error.hint)
