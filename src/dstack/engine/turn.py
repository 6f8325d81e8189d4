"""One turn: inside a commit, look at what is due, decide, and commit what was decided."""

import logging
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.exc import DatabaseError

from dstack.domain.objects import Next
from dstack.engine.catalog import Catalog
from dstack.engine.lifecycles import LIFECYCLES, check_move
from dstack.engine.scheduler import Scheduler
from dstack.kit.ids import Ids
from dstack.store import commits, objects, wakes
from dstack.store.kinds import KINDS
from dstack.store.tx import Tx

log = logging.getLogger(__name__)

LOOKS_PER_COMMIT = 200
AFTER_A_BUG = timedelta(seconds=30)


def _is_scheduler(who: tuple[str, str]) -> bool:
    """Return whether placement is woken. It comes last, and sees what all the others have decided."""
    return who[0] == "scheduler"


def _read_ahead(tx: Tx, due: Sequence[tuple[str, str]]) -> None:
    """Read what these objects need at once. A row that cannot be read concerns its object's look alone."""
    for kind, of_kind in KINDS.items():
        ids = [id for due_kind, id in due if due_kind == kind]
        if len(ids) < 2:
            continue
        try:
            of_kind.read_ahead(tx, ids)
        except (LookupError, TypeError, ValueError) as error:
            log.debug("Some of %d objects of the kind %s cannot be read: %s", len(ids), kind, error)


class Turn:
    """What is needed to decide."""

    def __init__(self, ids: Ids, catalog: Catalog) -> None:
        self._ids = ids
        self._catalog = catalog
        self._scheduler = Scheduler(ids)

    def why_waiting(self, run_id: str) -> str | None:
        """Return why a run waits in the queue, if known."""
        return self._scheduler.why_waiting(run_id)

    def take(self, tx: Tx) -> None:
        """Look at what is due in this transaction, and at what that wakes, until nothing is due or it is enough."""
        looks = 0
        self._scheduler.begin()
        may_place = True
        while looks < LOOKS_PER_COMMIT:
            now = tx.clock.now()
            due = [who for who, at in tx.wakes.items() if at <= now and (may_place or not _is_scheduler(who))]
            if not due:
                return
            due = sorted(due, key=_is_scheduler)[: LOOKS_PER_COMMIT - looks]
            _read_ahead(tx, due)
            for kind, id in due:
                if kind != "scheduler":
                    self._take(tx, kind, id)
                elif may_place:
                    self._take(tx, kind, id)
                    # The rest of a pass is for another commit, after writes that wait meanwhile.
                    may_place = not self._scheduler.has_rest
            looks += len(due)

    def _take(self, tx: Tx, kind: str, id: str) -> None:
        """Take one wake and look.

        A bug concerns its object alone: deciding writes nothing, and a commit checks before it writes.
        """
        del tx.wakes[kind, id]
        try:
            if kind == "scheduler":
                market, closed = self._catalog.snapshot(), self._catalog.closed
                self._scheduler.look(tx, market, check_move, closed, (kind, id))
            elif (decided := self._decide(tx, kind, id)) is not None:
                commits.commit(tx, decided, check_move)
                if decided.again is not None:
                    wakes.add(tx, kind, id, after=decided.again)
        except DatabaseError:
            raise
        except Exception:
            log.exception("Looking at %s %s failed; it is looked at again in %s", kind, id, AFTER_A_BUG)
            tx.known.clear()  # should what is remembered be wrong, the next look reads afresh
            tx.lists.clear()
            wakes.add(tx, kind, id, after=AFTER_A_BUG)

    def _decide(self, tx: Tx, kind: str, id: str) -> Next | None:
        """What the object's step says; None for an object that is missing or has ended."""
        of_kind = KINDS.get(kind)
        thing = None if of_kind is None else objects.find(tx, of_kind.rows.type, id)
        step = None if thing is None else LIFECYCLES[kind].step(thing.status)
        if of_kind is None or thing is None or step is None:
            return None  # a wake of another kind is for the part that waits for it
        decided: Next = step(of_kind.view(tx, thing, self._ids))
        return decided
