"""Uploads: which pieces of a folder the server lacks, and taking them in."""

import asyncio

from dstack.operations.context import Context, caller_in
from dstack.store.users import User


async def missing(context: Context, user: User, project: str, hashes: list[str]) -> list[str]:
    """Those of the blobs that are not here yet."""
    await context.db.read(lambda tx: caller_in(tx, user, project))
    return await asyncio.to_thread(context.blobs.missing, hashes)


async def put(context: Context, user: User, project: str, hash: str, blob: bytes) -> None:
    """Keep a blob; its bytes must have this hash."""
    await context.db.read(lambda tx: caller_in(tx, user, project))
    await asyncio.to_thread(context.blobs.put, hash, blob)
