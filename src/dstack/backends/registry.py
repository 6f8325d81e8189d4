"""All backends that a server calls, each with threads of its own: they are added, changed and removed while it runs.

Drivers block. Launches, questions and ends have threads of their own, so that launches that hang delay no end.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dstack.backends.base import Abilities, Backend
from dstack.backends.counts import SLOW_S, Counts
from dstack.backends.counts import Verb as Verb  # callers name their verbs
from dstack.domain.backends import BackendRecord
from dstack.domain.offers import Offer
from dstack.errors import BackendError, BackendUnavailable, NoCapacityError
from dstack.kit.tasks import TaskGroup

T = TypeVar("T")

LAUNCHES_AT_ONCE = 12
"""The threads that launch machines."""
QUESTIONS_AT_ONCE = 4
"""The threads that only ask."""
ENDS_AT_ONCE = 4
"""The threads that only end machines."""
CALLS_TIMEOUT_S = 600.0
"""The longest wait for the last calls of a driver that is replaced or removed, before it is closed."""
CLOSE_TIMEOUT_S = 5.0
"""The longest time for closing a driver."""

log = logging.getLogger(__name__)


class _Entry:
    """One backend with its driver and its threads."""

    def __init__(self, record: BackendRecord, driver: Backend | None, fault: str, counts: Counts) -> None:
        self.record = record
        self.driver = driver
        self.fault = fault
        self.counts = counts
        self.calls: set[asyncio.Future[Any]] = set()
        """The calls that a thread makes, or is going to make."""
        prefix = f"backend-{record.name}"
        self._launches = ThreadPoolExecutor(LAUNCHES_AT_ONCE, thread_name_prefix=prefix)
        self._questions = ThreadPoolExecutor(QUESTIONS_AT_ONCE, thread_name_prefix=f"{prefix}-questions")
        self._ends = ThreadPoolExecutor(ENDS_AT_ONCE, thread_name_prefix=f"{prefix}-ends")
        self._closing = ThreadPoolExecutor(1, thread_name_prefix=f"{prefix}-closing")

    def threads_for(self, verb: Verb) -> ThreadPoolExecutor:
        """Return the threads for calls of a verb."""
        return {Verb.LAUNCH: self._launches, Verb.TERMINATE: self._ends}.get(verb, self._questions)

    def run(self, verb: Verb, function: Callable[[Backend], T], driver: Backend) -> "asyncio.Future[T]":
        """Begin a call of the driver in a thread of the verb."""
        call = asyncio.get_running_loop().run_in_executor(self.threads_for(verb), function, driver)
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)
        return call

    async def close(self, *, calls_timeout_s: float) -> None:
        """Close the driver after its last calls, in a thread of its own.

        Args:
            calls_timeout_s: the longest wait for the calls. Those that wait for a thread by then are not made.
        """
        if self.calls:
            await asyncio.wait(set(self.calls), timeout=calls_timeout_s)
        for threads in (self._launches, self._questions, self._ends):
            threads.shutdown(wait=False, cancel_futures=True)
        try:
            if self.driver is not None:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await asyncio.get_running_loop().run_in_executor(self._closing, self.driver.close)
        except TimeoutError:
            log.warning("The driver of the backend %s was not closed within %g s", self.record.name, CLOSE_TIMEOUT_S)
        except Exception:  # a driver's bug must harm no other backend
            log.exception("The driver of the backend %s could not be closed", self.record.name)
        self._closing.shutdown(wait=False)


@dataclass(frozen=True, slots=True)
class Configured:
    """One backend as the registry has it."""

    record: BackendRecord
    fault: str
    """The reason why it cannot be called; empty if it can."""
    counts: Counts


def _check_offers(offers: tuple[Offer, ...]) -> None:
    """Raise unless the market can sort and index the offers: those of one driver must harm no other's.

    Raises:
        BackendError: an offer has no price.
        TypeError: an offer has a part that cannot be hashed, such as a list.
    """
    hash(offers)
    wrong = next((one for one in offers if not one.price >= 0), None)  # NaN is not
    if wrong is not None:
        raise BackendError(
            f"The offer {wrong.title} in {wrong.region} has the price {wrong.price}: expected a number of at least 0"
        )


class BackendRegistry:
    """The backends of this server, by id. It knows no rows: `engine.backends` follows them.

    Args:
        drivers: backends without rows, by name.
    """

    def __init__(self, drivers: Mapping[str, Backend] | None = None) -> None:
        self._entries: dict[str, _Entry] = {}
        self._retired: list[_Entry] = []
        """Those that were replaced or removed, and are not closed yet."""
        self._tasks = TaskGroup()
        self._listeners: list[Callable[[str], None]] = []
        for name, driver in (drivers or {}).items():
            self.add(BackendRecord(name, name, name), driver)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of all backends."""
        return iter(list(self._entries))

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def find(self, id: str) -> Configured | None:
        """Return a backend."""
        entry = self._entries.get(id)
        return None if entry is None else Configured(entry.record, entry.fault, entry.counts)

    def records(self) -> list[BackendRecord]:
        """Return all backends."""
        return [entry.record for entry in self._entries.values()]

    def name_of(self, id: str) -> str:
        """Return the name of a backend; the id of one that is no longer there."""
        entry = self._entries.get(id)
        return id if entry is None else entry.record.name

    @property
    def are_of_projects(self) -> bool:
        """Whether some backend is for one project alone."""
        return any(entry.record.project_id is not None for entry in self._entries.values())

    def selling(self) -> list[str]:
        """Return the ids of the backends that sell machines: those that are not being removed."""
        return [id for id, entry in self._entries.items() if entry.record.closing_since is None]

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of a backend after it was added, changed or removed."""
        self._listeners.append(listener)

    def add(self, record: BackendRecord, driver: Backend | None, fault: str = "") -> None:
        """Add a backend, or give it another driver. Calls of its former driver go on; then that one is closed.

        Args:
            driver: None for a backend that cannot be called.
            fault: the reason why it cannot be called.
        """
        former = self._entries.get(record.id)
        counts = Counts(f"The backend `{record.name}`") if former is None else former.counts
        self._entries[record.id] = _Entry(record, driver, fault, counts)
        self._retire(former)
        self._report(record.id)

    def remove(self, id: str) -> None:
        """Remove a backend. Its calls go on; then its driver is closed."""
        entry = self._entries.pop(id, None)
        if entry is not None:
            self._retire(entry)
            self._report(id)

    def _retire(self, entry: _Entry | None) -> None:
        if entry is not None:
            self._retired.append(entry)
            self._tasks.start(f"closing of {entry.record.name}", self._close_retired(entry))

    async def _close_retired(self, entry: _Entry) -> None:
        await entry.close(calls_timeout_s=CALLS_TIMEOUT_S)
        self._retired.remove(entry)

    def _report(self, id: str) -> None:
        for listener in self._listeners:
            listener(id)

    def abilities(self, id: str) -> Abilities:
        """Return what the driver of a backend declares; the defaults for a backend that has none."""
        entry = self._entries.get(id)
        return Abilities() if entry is None or entry.driver is None else entry.driver.abilities

    async def offers(self, id: str, known: tuple[Offer, ...] = (), *, timeout_s: float) -> tuple[Offer, ...]:
        """Return the offers of a backend, each with the backend's id and the project that may use it.

        Args:
            known: the former offers, which are returned themselves where nothing has changed. Thousands of offers are
                compared in the driver's thread.

        Raises:
            DstackError: as `call`, or as the driver.
        """
        entry = self._entries.get(id)
        record = BackendRecord(id, id, id) if entry is None else entry.record

        def marked(backend: Backend) -> tuple[Offer, ...]:
            found = tuple(backend.offers())
            if record.id != record.type:
                owner = record.project_id
                its = [
                    replace(
                        one,
                        backend_id=record.id,
                        backend_name=record.name,
                        project_id=owner,
                        for_all=one.for_all and owner is None,
                    )
                    for one in found
                ]
                found = tuple(its)
            if found == known:
                return known
            _check_offers(found)
            return found

        return await self.call(id, Verb.OFFERS, marked, timeout_s=timeout_s)

    async def try_out(
        self, record: BackendRecord, driver: Backend, running: Collection[str] = (), *, timeout_s: float
    ) -> bool:
        """Check a backend that is not added yet; return whether it lists some of the machines that run, if any do.

        Args:
            running: the keys of machines that the backend of that name certainly has.

        Raises:
            DstackError: as `call`, or as the driver.
        """
        entry = _Entry(record, driver, "", Counts(f"The backend `{record.name}`"))
        try:
            await self._call(entry, Verb.CHECK, lambda backend: backend.check(), timeout_s)
            if not running:
                return True
            listed = await self._call(entry, Verb.LOOK_UP, lambda backend: backend.look_up(), timeout_s)
            return any(one.key in running for one in listed)
        finally:
            self._retire(entry)

    async def call(self, id: str, verb: Verb, function: Callable[[Backend], T], *, timeout_s: float) -> T:
        """Return the result of `function` of a driver, run in one of its threads.

        Args:
            verb: the call that it makes, which is counted.

        Raises:
            BackendUnavailable: it did not answer in time, cannot be called, or is no longer configured.
        """
        entry = self._entries.get(id)
        if entry is None:
            raise BackendUnavailable(f"The backend `{id}` is no longer configured")
        return await self._call(entry, verb, function, timeout_s)

    async def _call(self, entry: _Entry, verb: Verb, function: Callable[[Backend], T], timeout_s: float) -> T:
        if entry.driver is None:
            raise BackendUnavailable(f"The backend `{entry.record.name}` cannot be used: {entry.fault}")
        loop = asyncio.get_running_loop()
        began_s, failed = loop.time(), True
        entry.counts.begin(verb)
        slow = loop.call_later(SLOW_S[verb], entry.counts.note_slow, verb)
        try:
            async with asyncio.timeout(timeout_s):
                result = await entry.run(verb, function, entry.driver)
            failed = False
            return result
        except NoCapacityError:
            failed = False  # it answered
            raise
        except TimeoutError:
            name = entry.record.name
            raise BackendUnavailable(f"The backend `{name}` did not answer within {timeout_s:g} s") from None
        finally:
            slow.cancel()
            entry.counts.end(verb, loop.time() - began_s, failed=failed)

    async def close(self) -> None:
        """Begin no more calls, and close all drivers. A call that hangs delays nothing."""
        await self._tasks.close()
        entries = [*self._entries.values(), *self._retired]
        await asyncio.gather(*(entry.close(calls_timeout_s=0) for entry in entries))
