"""The schema of a database: made, migrated, or refused."""

from sqlalchemy import Connection, inspect, text

from dstack.errors import ConfigurationError, DatabaseUnavailable
from dstack.store import tables
from dstack.store.dialect import Dialect
from dstack.store.tx import Tx


def prepare_schema(dialect: Dialect) -> None:
    """A new database gets today's tables at once; an older one is migrated; a newer one is refused.

    Raises:
        ConfigurationError: the database was written by a newer dstack.
    """
    with dialect.engine.begin() as conn:
        dialect.take_time(conn)
        dialect.lock(conn)  # of several servers that start at once, one finds it new
        version = _version_of(conn)
        if version is None:
            tables.metadata.create_all(conn)
            conn.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            conn.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": tables.HEAD})
        elif version > tables.HEAD:
            raise ConfigurationError(
                f"The database is of version {version}, and this dstack knows versions up to {tables.HEAD}",
                hint="Use the newer dstack that wrote it",
            )
        elif version < tables.HEAD:
            from dstack.store.migrate import migrate  # Alembic takes long to import, and is seldom needed

            migrate(conn)


def check(tx: Tx) -> None:
    """Raise `DatabaseUnavailable` if a newer server has migrated the database since this one started."""
    refuse_newer(tx.select(text("SELECT version_num FROM alembic_version")).scalar_one())


def refuse_newer(version: str) -> None:
    """Raise `DatabaseUnavailable` if the schema is newer than this server."""
    if version > tables.HEAD:
        raise DatabaseUnavailable(
            f"The database is newer than this server: it has version {version}, and this server knows {tables.HEAD}",
            hint="Restart this server with the new version of dstack",
        )


def _version_of(conn: Connection) -> str | None:
    if not inspect(conn).has_table("alembic_version"):
        return None
    version: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version
