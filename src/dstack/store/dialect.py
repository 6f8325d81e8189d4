"""What is particular about one kind of database: how to connect, whom a write has to wait for, who else has to hear."""

from abc import ABC, abstractmethod

from sqlalchemy import Connection, Engine, Insert

from dstack.store.tx import Notices


class Dialect(ABC):
    """One database of one kind."""

    name: str
    """As messages call it, without passwords."""
    engine: Engine
    keep_earlier: Insert
    """Inserts wakes, where a wake that is there and due earlier stays."""

    @abstractmethod
    def prepare(self) -> None:
        """Make sure that the database is there and may be used; raises `OSError` or `DatabaseError`."""

    @abstractmethod
    def begin(self, conn: Connection) -> bool:
        """The first thing in a transaction that writes: wait for one's turn. True where others may have written since
        one's last."""

    @abstractmethod
    def tell(self, conn: Connection, notices: Notices) -> None:
        """Have other servers on this database hear of this transaction once it is committed."""
