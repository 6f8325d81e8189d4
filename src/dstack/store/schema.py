"""The schema of a database: made, migrated, or refused."""

from sqlalchemy import Connection, Engine, inspect, text

from dstack.errors import ConfigurationError
from dstack.store import tables


def prepare_schema(engine: Engine) -> None:
    """A new database gets today's tables at once; an older one is migrated; a newer one is refused.

    Raises:
        ConfigurationError: the database was written by a newer dstack.
    """
    with engine.begin() as conn:
        version = _version_of(conn)
        if version is None:
            tables.metadata.create_all(conn)
            conn.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            conn.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": tables.HEAD})
            return
    if version > tables.HEAD:
        raise ConfigurationError(
            f"The database is of version {version}, and this dstack knows versions up to {tables.HEAD}",
            hint="Use the newer dstack that wrote it",
        )
    if version < tables.HEAD:
        from dstack.store.migrate import migrate  # Alembic takes long to import, and is seldom needed

        migrate(engine)


def _version_of(conn: Connection) -> str | None:
    if not inspect(conn).has_table("alembic_version"):
        return None
    version: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version
