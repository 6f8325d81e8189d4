"""Uploads over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from dstack.operations import blobs
from dstack.protocol import requests, routes
from dstack.protocol.views import MissingBlobs
from dstack.server.http.calls import At, By, json_of
from dstack.server.http.edge import BodyOf
from dstack.server.http.routing import add

router = APIRouter()

Hashes = Annotated[requests.BlobHashes, Depends(BodyOf(requests.BlobHashes))]


@add(router, routes.MISSING_BLOBS)
async def missing_blobs(context: At, user: By, project: str, body: Hashes) -> Response:
    """Return the blobs that the server lacks."""
    return json_of(MissingBlobs(missing=await blobs.missing(context, user, project, body)))


@add(router, routes.PUT_BLOB)
async def put_blob(context: At, user: By, project: str, hash: str, request: Request) -> Response:
    """Store one blob."""
    await blobs.put(context, user, project, hash, await request.body())
    return Response(status_code=routes.PUT_BLOB.status)
