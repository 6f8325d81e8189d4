"""Made-up clients of services: they send requests to the data planes, and some send again a request that breaks."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dstack.testing.nature import Nature

SEND_AGAIN_AFTER_S, TRIES = 1.0, 4


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that a client will send."""

    at_s: float
    """The time after the first replica's submit."""
    takes_s: float
    """The time that a replica needs to answer it."""


@dataclass(slots=True, eq=False)
class Request:
    """A request on its way: a data plane holds it, or a replica answers it."""

    service_id: str
    takes_s: float
    tries: int
    """The number of times for which its client sends it, if it breaks."""
    lost: Callable[["Request"], None]
    """Called when it breaks."""
    arrived_s: float = 0.0
    job_id: str | None = None
    """The replica that answers it; None while it is held."""
    timer: asyncio.TimerHandle | None = None
    """The end of the answer, or of the client's patience."""

    def then(self, after_s: float, act: Callable[["Request"], None]) -> None:
        """Let this happen to the request next, in place of what was to happen."""
        self.forget()
        self.timer = asyncio.get_running_loop().call_later(after_s, act, self)

    def forget(self) -> None:
        """Let nothing happen to the request any more."""
        if self.timer is not None:
            self.timer.cancel()


class Plane(Protocol):
    """A data plane, as far as clients know it."""

    def knows(self, service_id: str) -> bool:
        """Return whether it answers requests for a service."""
        ...

    def take(self, request: Request) -> None:
        """Answer a request."""
        ...


class Clients:
    """All clients of all services."""

    def __init__(self, nature: Nature, planes: Sequence[Plane]) -> None:
        self._nature = nature
        self._planes = planes

    async def visit(self, service_id: str, visits: Iterable[Visit]) -> None:
        """Send one request after the other at its time."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for visit in visits:
            await asyncio.sleep(began_s + visit.at_s - loop.time())
            self.send(service_id, visit.takes_s)

    def send(self, service_id: str, takes_s: float) -> None:
        """Send a request to any data plane. Every other client is patient."""
        self._send(Request(service_id, takes_s, self._nature.chance.choice([1, TRIES]), self._lose))

    def _send(self, request: Request) -> None:
        planes = [plane for plane in self._planes if plane.knows(request.service_id)]
        if planes:
            self._nature.chance.choice(planes).take(request)
        else:
            self._lose(request)

    def _lose(self, request: Request) -> None:
        if request.tries > 1:
            again = Request(request.service_id, request.takes_s, request.tries - 1, self._lose)
            again.then(SEND_AGAIN_AFTER_S, self._send)
