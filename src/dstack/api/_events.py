"""Events: the history of a project, as a list or as a live stream. Following never polls."""

from collections.abc import Iterator

from dstack.api._transport import Patience, Query, Transport
from dstack.errors import ServerUnreachableError
from dstack.protocol import routes
from dstack.protocol.views import EventPage, EventView, RunView

IDLE_TIMEOUT_S = 45.0
"""Three times the interval of the server's keep-alive lines."""
PAGE_EVENTS = 1000


class EventCollection:
    """The events of one project.

    Examples:
        >>> from dstack.api import Client, Task
        >>> client = Client.from_config()
        >>> run = client.runs.submit(Task(commands=["true"]))
        >>> next(client.events.list(run=run.id)).kind
        'run.submitted'
    """

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._project = project

    def list(self, run: str | None = None, after: int = 0) -> Iterator[EventView]:
        """Yield the events so far, oldest first. Fetches 1,000 events a request.

        Args:
            run: a run's name or id, to get only its events.
            after: the number of the last known event; later events are yielded.

        Raises:
            ResourceNotExistsError: the run is missing.

        Examples:
            >>> from dstack.api import Client, Task
            >>> client = Client.from_config()
            >>> run = client.runs.submit(Task(commands=["true"]))
            >>> next(client.events.list(run=run.id)).message.startswith("admin submitted")
            True
        """
        while True:
            query = {"run": run, "after": after, "limit": PAGE_EVENTS}
            page: EventPage = self._transport.call(routes.LIST_EVENTS, query=query, project=self._project)
            yield from page.events
            if len(page.events) < PAGE_EVENTS:
                return
            after = page.cursor

    def follow(self, run: str | None = None, after: int = 0) -> Iterator[EventView]:
        """Yield events after number `after` as they happen, without end. No event is missed or repeated.

        Args:
            run: a run's name or id, to get only its events.
            after: the number of the last known event; later events are yielded.

        Raises:
            ServerUnreachableError: the server did not answer for five minutes.
            ResourceNotExistsError: the run is missing.

        Examples:
            >>> from dstack.api import Client, Task
            >>> client = Client.from_config()
            >>> run = client.runs.submit(Task(commands=["true"]))
            >>> next(event.status for event in client.events.follow(run=run.id) if event.status == "done")
            'done'
        """
        found = news(self._transport, self._project, run, after)
        return (event for event in found if isinstance(event, EventView))


def news(
    transport: Transport, project: str, run: str | None, after: int, *, shows_run: bool = False
) -> Iterator[EventView | RunView | None]:
    """Yield the events of `EventCollection.follow`; with `run` also None after each change that has no event.

    Args:
        shows_run: yield the run itself before the events of a change, and instead of None. An older server sends none.
    """
    patience = Patience(transport)
    while True:
        try:
            query = {"run": run, "after": after, "shows_run": shows_run or None}
            for event in _stream(transport, project, query, patience):
                if not isinstance(event, EventView):
                    yield event
                elif event.seq > after:
                    after = event.seq
                    yield event
        except ServerUnreachableError as error:
            patience.endure(error)


def _stream(
    transport: Transport, project: str, query: Query, patience: Patience
) -> Iterator[EventView | RunView | None]:
    with transport.stream(
        routes.LIST_EVENTS,
        query=query,
        accept="text/event-stream",
        idle_timeout_s=IDLE_TIMEOUT_S,
        project=project,
    ) as reply:
        is_run = False
        for line in reply.lines():
            patience.renew()
            if line.startswith("data:"):
                data = line.removeprefix("data:")
                yield reply.view(RunView, data) if is_run else reply.view(EventView, data)
            elif line.startswith("event:") or not line:
                is_run = line.removeprefix("event:").strip() == routes.RUN_EVENT
            elif line == routes.CHANGED:
                yield None
    raise ServerUnreachableError("The server ended the stream of events")
