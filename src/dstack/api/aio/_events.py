"""The asyncio form of `dstack.api._events`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dstack import api
    from dstack.api.aio._threads import Threads
    from dstack.protocol.views import EventView


class EventCollection:
    """The events of one project.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client, Task
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         run = await client.runs.submit(Task(commands=["true"]))
        ...         print((await anext(client.events.list(run=run.id))).kind)
        >>> asyncio.run(main())
        run.submitted
    """

    def __init__(self, events: api.EventCollection, threads: Threads) -> None:
        self._events = events
        self._threads = threads

    def list(self, run: str | None = None, after: int = 0) -> AsyncIterator[EventView]:
        """Yield the events so far, oldest first. Fetches 1,000 events a request.

        Args:
            run: a run's name or id, to get only its events.
            after: the number of the last known event; later events are yielded.

        Raises:
            ResourceNotExistsError: the run is missing.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["true"]))
            ...         print((await anext(client.events.list(run=run.id))).message.startswith("admin submitted"))
            >>> asyncio.run(main())
            True
        """
        return self._threads.stream(self._events.list(run, after))

    def follow(self, run: str | None = None, after: int = 0) -> AsyncIterator[EventView]:
        """Yield events after number `after` as they happen, without end. No event is missed or repeated.

        Args:
            run: a run's name or id, to get only its events.
            after: the number of the last known event; later events are yielded.

        Raises:
            ServerUnreachableError: the server did not answer for five minutes.
            ResourceNotExistsError: the run is missing.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["true"]))
            ...         print(
            ...             await anext(
            ...                 event.status
            ...                 async for event in client.events.follow(run=run.id)
            ...                 if event.status == "done"
            ...             )
            ...         )
            >>> asyncio.run(main())
            done
        """
        return self._threads.stream(self._events.follow(run, after))
