"""Alembic's folder: `versions/` holds one file a migration, named after its number."""
