"""Uploads: which pieces of a folder the server lacks, and taking them in."""

import asyncio
from collections.abc import Sequence

from dstack.blobs.base import BlobStore
from dstack.errors import InvalidRequestError
from dstack.operations.context import Action, Context, authorize
from dstack.protocol.files import entries_of
from dstack.protocol.requests import BlobHashes
from dstack.store.users import User


async def missing(context: Context, user: User, project: str, asked: BlobHashes) -> list[str]:
    """Those of the blobs that are not here yet, and of the pages that are here, the chunks that are not.

    Raises:
        InvalidRequestError: a page is not valid.
    """
    caller = await context.db.read(lambda tx: authorize(tx, user, project, Action.RUN))
    return await asyncio.to_thread(_missing, context.blobs, caller.project.id, asked.hashes, asked.pages)


async def put(context: Context, user: User, project: str, hash: str, blob: bytes) -> None:
    """Keep a blob; its bytes must have this hash."""
    caller = await context.db.read(lambda tx: authorize(tx, user, project, Action.RUN))
    await asyncio.to_thread(context.blobs.put, caller.project.id, hash, blob)


def _missing(blobs: BlobStore, owner: str, hashes: Sequence[str], pages: Sequence[str]) -> list[str]:
    lacking = [*blobs.missing(owner, hashes), *(absent := blobs.missing(owner, pages))]
    chunks: dict[str, None] = {}
    for page in set(pages).difference(absent):
        chunks.update(dict.fromkeys(_chunks_of(page, blobs.get(owner, page) or b"")))
    return lacking + blobs.missing(owner, list(chunks))


def _chunks_of(name: str, page: bytes) -> list[str]:
    try:
        return [chunk for entry in entries_of(page) for chunk in entry.chunks]
    except ValueError as error:
        raise InvalidRequestError(f"The blob `{name}` is not a page of a manifest") from error
