"""PostgreSQL: several servers on one database, any of which may vanish at any moment.

One server writes at a time, in the order in which they ask: the same rule as with a file, and the reason why all that
holds for one server holds for several. Many waiting writes share a turn, so that turns are few.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, create_engine, func, make_url, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ArgumentError

from dstack.errors import ConfigurationError
from dstack.kit.clock import CorrectedClock
from dstack.store.dialect import Dialect
from dstack.store.json_columns import read_json
from dstack.store.notices import Notices, of_message, to_messages
from dstack.store.schema import refuse_newer
from dstack.store.tables import wakes

log = logging.getLogger(__name__)

CONNECTIONS = 6
"""One for each reader, one for turns, and one for writes beside them."""
CONNECT_TIMEOUT_S = 10
LISTEN_AGAIN_AFTER_S = 1.0
_ALIVE: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""A database that has vanished without a word is noticed within seconds: whoever only listens would wait for hours."""
OURS = 0x6473746163_6B
"""The advisory lock of whoever writes."""
CHANNEL = "dstack"
# A server that is frozen in the middle of its turn must not hold up the others: PostgreSQL hangs up on it.
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "idle_in_transaction_session_timeout=10s",
        "statement_timeout=60s",
        "tcp_keepalives_idle=5",
        "tcp_keepalives_interval=2",
        "tcp_keepalives_count=3",
    )
)
_INSERT = insert(wakes)
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
_TURN = text("SELECT nextval('commits'), clock_timestamp(), (SELECT version_num FROM alembic_version)")
_TELL = text("SELECT pg_notify(:channel, :message)")


class Postgres(Dialect):
    """A database on a PostgreSQL server, and its clock as everyone's."""

    is_shared = True
    advice = "Check that PostgreSQL runs and that DSTACK_DATABASE_URL is right"
    keep_earlier = _INSERT.on_conflict_do_update(
        index_elements=["kind", "id"], set_={"due_at": func.least(wakes.c.due_at, _INSERT.excluded.due_at)}
    )

    def __init__(self, url: str, clock: CorrectedClock, *, server: str) -> None:
        """Args:
        clock: is set by the database's.
        server: what tells this server from others on the database.
        """
        self._url = _url_of(url)
        self._clock = clock
        self._server = server
        self._turn = -1
        self.name = f"`{self._url.render_as_string(hide_password=True)}`"
        self.engine = create_engine(
            self._url,
            pool_size=CONNECTIONS,
            pool_pre_ping=True,
            connect_args={**_ALIVE, "options": _OPTIONS},
            hide_parameters=True,  # they hold users' variables, and errors go to the log
            json_deserializer=read_json,
        )
        self.reading = self.engine.execution_options(isolation_level="REPEATABLE READ")

    def prepare(self) -> None:
        with self.engine.connect() as conn:
            self._clock.correct(conn.execute(text("SELECT clock_timestamp()")).scalar_one())

    def lock(self, conn: Connection) -> None:
        conn.execute(_LOCK, {"key": OURS})

    def take_time(self, conn: Connection) -> None:
        conn.execute(text("SET LOCAL statement_timeout = 0"))

    def begin(self, conn: Connection) -> bool:
        self.lock(conn)
        turn, now, version = conn.execute(_TURN).one()
        refuse_newer(version)
        self._clock.correct(now)
        others: bool = turn != self._turn + 1
        self._turn = turn
        return others

    def tell(self, conn: Connection, notices: Notices) -> None:
        for message in to_messages(notices):
            conn.execute(_TELL, {"channel": CHANNEL, "message": f"{self._server} {message}"})

    async def follow(self, hear: Callable[[Notices], None]) -> None:
        """Whenever the connection had to be made, something may have been missed."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url.set(drivername="postgresql").render_as_string(hide_password=False),
                    autocommit=True,
                    **_ALIVE,
                ) as conn:
                    await conn.execute(f"LISTEN {CHANNEL}")
                    hear(Notices(everything=True))
                    async for notification in conn.notifies():
                        server, _, message = notification.payload.partition(" ")
                        if server != self._server:
                            hear(of_message(message))
            except (psycopg.Error, OSError) as error:
                log.warning("Notices of other servers do not arrive: %s", error)
            except Exception:  # a newer server's message, say: what it meant is looked up
                log.exception("A notice of another server cannot be read")
            await asyncio.sleep(LISTEN_AGAIN_AFTER_S)


def _url_of(url: str) -> URL:
    parsed: URL | None = None
    with suppress(ArgumentError, ValueError):  # whose words may hold the password
        parsed = make_url(url)
    if parsed is None or parsed.drivername not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "DSTACK_DATABASE_URL is not the address of a PostgreSQL database",
            hint="It looks like `postgresql://user:password@host:5432/dstack`",
        )
    return parsed.set(drivername="postgresql+psycopg")
