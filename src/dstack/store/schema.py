"""The schema of a database: made, migrated, or refused."""

from sqlalchemy import Connection, inspect, text

from dstack.errors import ConfigurationError
from dstack.store import tables
from dstack.store.dialect import Dialect


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


def _version_of(conn: Connection) -> str | None:
    if not inspect(conn).has_table("alembic_version"):
        return None
    version: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version
