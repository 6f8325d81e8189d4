"""History: what happened, as a list or as it happens. Following is one open stream, never polling."""

from collections.abc import Iterator

from dstack.api._transport import Patience, Transport
from dstack.errors import ServerUnreachableError
from dstack.protocol import routes
from dstack.protocol.views import EventPage, EventView

IDLE_TIMEOUT_S = 45.0
"""Three times the server's sign of life."""
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
        """What has happened so far, page by page.

        Args:
            run: a run's name or id, to see only its events.
            after: the number of the last event known already.

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
        """What happens after event `after`, as it happens, without end; missing and repeating nothing.

        Raises:
            ServerUnreachableError: the server is away for minutes.
            ResourceNotExistsError: there is no such run.

        Examples:
            >>> from dstack.api import Client, Task
            >>> client = Client.from_config()
            >>> run = client.runs.submit(Task(commands=["true"]))
            >>> next(event.status for event in client.events.follow(run=run.id) if event.status == "done")
            'done'
        """
        return (event for event in news(self._transport, self._project, run, after) if event is not None)


def news(transport: Transport, project: str, run: str | None, after: int) -> Iterator[EventView | None]:
    """What `EventCollection.follow` yields; with `run` also None, when something about it is new without an event."""
    patience = Patience(transport)
    while True:
        try:
            for event in _stream(transport, project, run, after, patience):
                if event is None:
                    yield None
                elif event.seq > after:
                    after = event.seq
                    yield event
        except ServerUnreachableError as error:
            patience.endure(error)


def _stream(
    transport: Transport, project: str, run: str | None, after: int, patience: Patience
) -> Iterator[EventView | None]:
    with transport.stream(
        routes.LIST_EVENTS,
        query={"run": run, "after": after},
        accept="text/event-stream",
        idle_timeout_s=IDLE_TIMEOUT_S,
        project=project,
    ) as reply:
        for line in reply.lines():
            patience.renew()
            if line.startswith("data:"):
                yield EventView.model_validate_json(line.removeprefix("data:"))
            elif line == routes.CHANGED:
                yield None
    raise ServerUnreachableError("The server ended the stream of events")
