"""The offers of all backends: asked for in the background, one task for each backend, and shown as a market.

A call reads the market as it is and waits for no cloud. Only a backend whose offers are cheap to list (this machine)
is waited for, for a moment, where its list is too old.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from dstack.backends.registry import BackendRegistry
from dstack.domain.market import EMPTY, Market
from dstack.domain.offers import Offer
from dstack.errors import DstackError
from dstack.kit.clock import Clock
from dstack.kit.ids import Ids
from dstack.kit.pauses import Pauses
from dstack.kit.tasks import TaskGroup
from dstack.kit.text import utc_text

log = logging.getLogger(__name__)

BACKEND_TIMEOUT_S = 60.0
CHEAP_TIMEOUT_S = 5.0
"""The longest wait of a call for a backend whose offers are cheap to list."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=10)
"""The pauses between questions to a backend that fails."""
OFFERS_INLINE_MAX = 1000
"""Up to so many offers are indexed at once; more take a thread, for a fraction of a second."""
ERROR_CHARS_MAX = 200
UNUSABLE = "the backend cannot be used"
SILENT = "the backend does not answer"
UNKNOWN = "the backend has not listed its offers yet"
HIDDEN = "the server's own machine is not used, since the server has several users (see `DSTACK_LOCAL_BACKEND`)"


@dataclass(frozen=True, slots=True)
class BackendState:
    """What is known of the offers of one backend."""

    offers: tuple[Offer, ...] = ()
    """Those of its last answer."""
    asked_at: datetime | None = None
    """The time of its last answer; None before the first one."""
    error: str = ""
    """Why its last question has failed; empty where it was answered."""

    @property
    def stale(self) -> bool:
        """Whether the offers are older than they should be."""
        return bool(self.error) and self.asked_at is not None

    @property
    def fault(self) -> str:
        """Return why its machines may be missing among the offers; empty where its list is up to date."""
        if not self.error:
            return "" if self.asked_at is not None else UNKNOWN
        known = f"; its offers are of {utc_text(self.asked_at)}" if self.asked_at is not None else ""
        return f"{SILENT} ({self.error}){known}"


@dataclass(slots=True, eq=False)
class _Watched:
    """A backend whose offers are asked for."""

    name: str
    pauses: Pauses
    state: BackendState = field(default_factory=BackendState)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set where a call wants newer offers."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the last question is over, whatever came of it."""
    task: asyncio.Task[None] | None = None


class Catalog:
    """The latest offers of each backend; a backend that does not answer keeps its last ones."""

    def __init__(self, backends: BackendRegistry, clock: Clock, ids: Ids) -> None:
        self._backends = backends
        self._clock = clock
        self._ids = ids
        self._watched: dict[str, _Watched] = {}
        self._market = EMPTY
        self._shown: Mapping[str, tuple[Offer, ...]] = {}
        """The offers in the market, by backend. Those of a backend that was changed stay until it was asked."""
        self._indexing = asyncio.Lock()
        self._tasks = TaskGroup()
        self._listeners: list[Callable[[], None]] = []
        self.hidden: frozenset[str] = frozenset()
        """The backends that new jobs cannot use."""

    def start(self) -> None:
        """Begin to ask all backends for their offers."""
        for name in self._backends.selling():
            self.added(name)
        self._backends.listen(self._changed)

    async def close(self) -> None:
        """Ask no more."""
        await self._tasks.close()

    def _changed(self, name: str) -> None:
        if name in self._backends.selling():
            self.added(name)
        else:
            self._tasks.start(f"removal of the offers of {name}", self.removed(name))

    def added(self, name: str) -> None:
        """Begin to ask a backend for its offers. One that was changed is asked at once."""
        self._end(name)
        watched = self._watched[name] = _Watched(name, Pauses(FIRST_PAUSE, LONGEST_PAUSE, self._ids.random().random))
        watched.task = self._tasks.keep(f"offers of {name}", lambda: self._watch(watched))

    async def removed(self, name: str) -> None:
        """Forget a backend and its offers."""
        self._end(name)
        await self._index()

    def _end(self, name: str) -> None:
        watched = self._watched.pop(name, None)
        if watched is not None and watched.task is not None:
            watched.task.cancel()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the market has changed."""
        self._listeners.append(listener)

    def hide(self, name: str, *, is_hidden: bool = True) -> None:
        """Offer a backend no more, or again. Jobs that run there go on."""
        self.hidden = self.hidden | {name} if is_hidden else self.hidden - {name}

    @property
    def states(self) -> Mapping[str, BackendState]:
        """What is known of each backend, by name."""
        return {name: watched.state for name, watched in self._watched.items()}

    @property
    def silent(self) -> frozenset[str]:
        """The backends that failed to answer their last question. One that is being asked keeps what it was."""
        return frozenset(name for name, state in self.states.items() if state.error)

    def absent(self, project_id: str | None = None) -> Mapping[str, str]:
        """Return the names of a project's backends whose machines may be missing among the offers, with the reasons."""
        faults = {id: self._unusable(id) or state.fault for id, state in self.states.items() if state.fault}
        foreign = {one.id for one in self._backends.records() if one.project_id not in (None, project_id)}
        absent = {**faults, **self.closed}
        return {self._backends.name_of(id): why for id, why in absent.items() if id not in foreign}

    def _unusable(self, id: str) -> str:
        """Return the reason why a backend cannot be asked at all; empty if it can."""
        configured = self._backends.find(id)
        return f"{UNUSABLE} ({configured.fault})" if configured is not None and configured.fault else ""

    @property
    def closed(self) -> Mapping[str, str]:
        """The backends whose machines, new and existing ones, take no new jobs, each with the reason."""
        return dict.fromkeys(self.hidden, HIDDEN)

    def snapshot(self) -> Market:
        """Return the market as it is known now."""
        return self._market.without_backends(self.hidden)

    async def market(self) -> Market:
        """Return the market. Waits a moment for backends whose offers are cheap to list, and for no others."""
        old = [
            one
            for one in self._watched.values()
            if self._backends.abilities(one.name).lists_cheaply and self._is_old(one)
        ]
        for one in old:
            one.answered.clear()
            one.wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CHEAP_TIMEOUT_S):
                for one in old:
                    if not one.state.error:
                        await one.answered.wait()
        return self.snapshot()

    def _is_old(self, one: _Watched) -> bool:
        at = one.state.asked_at
        return at is None or self._clock.now() - at > self._backends.abilities(one.name).offers_fresh_for

    async def _watch(self, watched: _Watched) -> None:
        """Ask one backend again and again: soon after an answer, and more and more seldom while it fails."""
        while True:
            watched.wanted.clear()
            await self._ask(watched)
            watched.answered.set()
            await self._pause(watched)

    async def _pause(self, watched: _Watched) -> None:
        if self._backends.abilities(watched.name).lists_cheaply:
            await watched.wanted.wait()  # nobody needs to know while nobody asks
            return
        if not watched.state.error:
            watched.pauses.reset()
            await self._clock.sleep(self._backends.abilities(watched.name).offers_fresh_for)
        else:
            await self._clock.sleep(watched.pauses.next())

    async def _ask(self, watched: _Watched) -> None:
        name, before = watched.name, watched.state
        try:
            offers = await self._backends.offers(name, before.offers, timeout_s=BACKEND_TIMEOUT_S)
            watched.state = BackendState(offers, self._clock.now())
        except (DstackError, OSError) as error:
            watched.state = replace(before, error=(str(error) or type(error).__name__)[:ERROR_CHARS_MAX])
            log.warning("The backend %s does not list its offers: %s", self._backends.name_of(name), error)
        except Exception as error:  # a driver's bug must not keep the other backends from being used
            watched.state = replace(before, error=type(error).__name__)
            log.exception("The backend %s does not list its offers", self._backends.name_of(name))
        if watched.state.offers is not self._shown.get(name, ()):
            await self._index()

    async def _index(self) -> None:
        """Make a new version of the market."""
        async with self._indexing:
            shown = {name: watched.state.offers for name, watched in self._watched.items()}
            offers = [one for some in shown.values() for one in some]
            version = self._market.version + 1
            if len(offers) <= OFFERS_INLINE_MAX:
                self._market = Market.of(offers, version)
            else:
                self._market = await asyncio.to_thread(Market.of, offers, version)
            self._shown = shown
        for listener in self._listeners:
            listener()
