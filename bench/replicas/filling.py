"""Fills a database with runs that wait, as a server would have committed them."""

from functools import partial

from bench.replicas.market import configuration
from dstack.domain.births import Owner, first_jobs, new_run
from dstack.domain.objects import Revision
from dstack.kit.clock import CorrectedClock, SystemClock
from dstack.kit.ids import RandomIds
from dstack.operations.wishes import Wish, understand
from dstack.protocol.requests import SubmitRun
from dstack.store import commits, users
from dstack.store.db import Database
from dstack.store.postgres import Postgres
from dstack.store.tx import Tx

AT_ONCE = 500


async def fill(url: str, token: str, numbers: list[int]) -> None:
    """Have runs wait, one for each number of a requirement, in this order."""
    clock = CorrectedClock(SystemClock())
    ids = RandomIds(clock)
    db = Database(Postgres(url, clock, server="filling"), clock)
    db.open()
    wishes = {number: await understand(SubmitRun(configuration=configuration(number))) for number in set(numbers)}

    def owner_of(tx: Tx) -> Owner:
        users.ensure_admin(tx, ids, token)
        admin = users.find_user(tx, users.FIRST_ADMIN)
        assert admin is not None
        found = users.find_membership(tx, "main", admin.id)
        assert found is not None
        return Owner(found[0].id, admin.id)

    def add(tx: Tx, owner: Owner, start: int) -> None:
        for place, number in enumerate(numbers[start : start + AT_ONCE], start):
            _add(tx, ids, owner, f"filled-{place}", wishes[number])
        tx.wakes.clear()

    owner = await db.write(owner_of)
    for start in range(0, len(numbers), AT_ONCE):
        await db.write(partial(add, owner=owner, start=start))
    await db.close()


def _add(tx: Tx, ids: RandomIds, owner: Owner, name: str, wish: Wish) -> None:
    revision = Revision(ids.new_id(), 1, wish.spec(name))
    run = new_run(revision, wish.configuration, owner, name, now=tx.clock.now(), key=None)
    jobs = first_jobs(run, [ids.new_id() for _ in wish.configuration.jobs()], run.submitted_at)
    commits.add_run(tx, run, jobs, actor="user admin")
