"""What is particular about one kind of database: how to connect, whom a write has to wait for, who else has to hear."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from sqlalchemy import Connection, Engine, Insert

from dstack.store.notices import Notices


class Dialect(ABC):
    """One database of one kind."""

    name: str
    """As messages call it, without passwords."""
    advice: str
    """What to do when it cannot be used."""
    is_shared: bool
    """Whether several servers may work on it at once."""
    engine: Engine
    reading: Engine
    """The same for transactions that only read: all they read is of one moment."""
    keep_earlier: Insert
    """Inserts wakes, where a wake that is there and due earlier stays."""

    @abstractmethod
    def prepare(self) -> None:
        """Make sure that the database is there and may be used; raises `OSError` or `DatabaseError`."""

    @abstractmethod
    def lock(self, conn: Connection) -> None:
        """Wait until no other server writes; until the end of the transaction none does."""

    @abstractmethod
    def take_time(self, conn: Connection) -> None:
        """Let this transaction take as long as it takes: it changes the tables."""

    @abstractmethod
    def begin(self, conn: Connection) -> bool:
        """Begin a transaction that writes, with `lock`. Return whether others may have written since one's last.

        Raises:
            DatabaseUnavailable: a newer server has migrated the database.
        """

    @abstractmethod
    def tell(self, conn: Connection, notices: Notices) -> None:
        """Have other servers on this database hear of this transaction once it is committed."""

    @abstractmethod
    async def follow(self, hear: Callable[[Notices], None]) -> None:
        """Hear what others tell, until cancelled."""
