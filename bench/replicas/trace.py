"""What a server notes while it is measured: its transactions, its passes, its renewals and pauses of its event loop."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event

from dstack.domain.market import Market
from dstack.engine.scheduler import PLACEMENT, Scheduler
from dstack.kit.clock import Clock
from dstack.store.commits import Check
from dstack.store.db import Database
from dstack.store.dialect import Dialect
from dstack.store.tx import Tx

T = TypeVar("T")

LOOP_LOOKED_AT_EVERY_S = 0.05
LOCK = "pg_advisory_xact_lock"


class Trace:
    """A file with one JSON line for each thing that was noted."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._turn = threading.Lock()

    def note(self, kind: str, **values: object) -> None:
        """Write a line."""
        with self._turn:
            self._file.write(json.dumps({"kind": kind, "at_s": time.monotonic(), **values}) + "\n")

    def watch(self, engine: Engine) -> None:
        """Note every transaction of a database: how long it waited for its turn, held it, and asked the database."""

        @event.listens_for(engine, "before_cursor_execute")
        def before(conn: Connection, cursor: Any, statement: str, *rest: Any) -> None:
            now_s = time.monotonic()
            conn.info.setdefault("began_s", now_s)
            conn.info["asked_s"] = now_s

        @event.listens_for(engine, "after_cursor_execute")
        def after(conn: Connection, cursor: Any, statement: str, *rest: Any) -> None:
            now_s = time.monotonic()
            took_s = now_s - conn.info["asked_s"]
            if LOCK in statement:
                conn.info["waited_s"], conn.info["began_s"] = took_s, now_s
                return
            asked = conn.info.setdefault("asked", [])
            asked.append((took_s, statement))

        def over(conn: Connection) -> None:
            began_s = conn.info.pop("began_s", None)
            asked, waited_s = conn.info.pop("asked", []), conn.info.pop("waited_s", 0.0)
            if began_s is None:
                return
            longest_s, statement = max(asked, default=(0.0, ""))
            writes = threading.current_thread().name.startswith("store-write")
            self.note(
                "write" if writes else "read",
                held_s=time.monotonic() - began_s,
                waited_s=waited_s,
                statements=len(asked),
                sql_s=sum(took_s for took_s, _ in asked),
                longest_s=longest_s,
                statement=statement[:300],
            )

        event.listen(engine, "commit", over)
        event.listen(engine, "rollback", over)

    def watch_passes(self) -> None:
        """Note each look of the scheduler at the queue."""
        look = Scheduler.look

        @wraps(look)
        def timed(
            scheduler: Scheduler,
            tx: Tx,
            market: Market,
            check: Check,
            closed: Mapping[str, str],
            wake: tuple[str, str] = PLACEMENT,
        ) -> None:
            began_s = time.monotonic()
            is_remembered = ("queue", "") in tx.known
            look(scheduler, tx, market, check, closed, wake)
            self.note(
                "pass",
                took_s=time.monotonic() - began_s,
                wake=wake[1],
                has_rest=scheduler.has_rest,
                is_remembered=is_remembered,
                has_market=market.version > 0,
            )

        Scheduler.look = timed  # type: ignore[method-assign, assignment]


class WatchedDatabase(Database):
    """The store, with notes of the renewals of leases."""

    def __init__(self, dialect: Dialect, clock: Clock, trace: Trace) -> None:
        super().__init__(dialect, clock)
        trace.watch(dialect.engine)
        trace.watch_passes()
        self._trace = trace
        self._beating: Collection[asyncio.Task[None]] = ()

    def open(self) -> None:
        """Also watch the event loop."""
        super().open()
        self._beating = [asyncio.get_running_loop().create_task(self._beat())]

    async def beside(self, function: Callable[[Tx], T]) -> T:
        """Also note how long a renewal takes."""
        asked_s = time.monotonic()
        found = await super().beside(function)
        self._trace.note("renewal", asked_s=asked_s, done_s=time.monotonic())
        return found

    async def _beat(self) -> None:
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(LOOP_LOOKED_AT_EVERY_S)
            late_s = time.monotonic() - began_s - LOOP_LOOKED_AT_EVERY_S
            if late_s > LOOP_LOOKED_AT_EVERY_S:
                self._trace.note("loop", late_s=late_s)
