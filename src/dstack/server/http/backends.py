"""Backends over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from dstack.operations import backends
from dstack.protocol import requests, routes
from dstack.server.http.calls import At, By, json_of
from dstack.server.http.edge import BodyOf
from dstack.server.http.routing import add

router = APIRouter()

Config = Annotated[requests.PutBackend, Depends(BodyOf(requests.PutBackend))]
Flag = Annotated[bool, Query()]


@add(router, routes.LIST_BACKENDS)
async def list_backends(context: At, user: By, project: str) -> Response:
    """Return the backends of a project."""
    return json_of(await backends.list_for(context, user, project))


@add(router, routes.PUT_BACKEND)
async def put_backend(context: At, user: By, project: str, backend: str, body: Config) -> Response:
    """Add a backend, or change it."""
    return json_of(await backends.put(context, user, project, backend, body.config))


@add(router, routes.CHECK_BACKEND)
async def check_backend(context: At, user: By, project: str, backend: str) -> Response:
    """Check a backend."""
    return json_of(await backends.check(context, user, project, backend))


@add(router, routes.DELETE_BACKEND)
async def delete_backend(
    context: At, user: By, project: str, backend: str, drain: Flag = False, force: Flag = False
) -> Response:
    """Delete a backend."""
    return json_of(await backends.delete(context, user, project, backend, drain=drain, force=force))


@add(router, routes.LIST_ALL_BACKENDS)
async def list_all_backends(context: At, user: By) -> Response:
    """Return the backends of all projects."""
    return json_of(await backends.list_for(context, user, None))


@add(router, routes.PUT_BACKEND_FOR_ALL)
async def put_backend_for_all(context: At, user: By, backend: str, body: Config) -> Response:
    """Add a backend for all projects, or change it."""
    return json_of(await backends.put(context, user, None, backend, body.config))


@add(router, routes.CHECK_BACKEND_FOR_ALL)
async def check_backend_for_all(context: At, user: By, backend: str) -> Response:
    """Check a backend for all projects."""
    return json_of(await backends.check(context, user, None, backend))


@add(router, routes.DELETE_BACKEND_FOR_ALL)
async def delete_backend_for_all(
    context: At, user: By, backend: str, drain: Flag = False, force: Flag = False
) -> Response:
    """Delete a backend for all projects."""
    return json_of(await backends.delete(context, user, None, backend, drain=drain, force=force))
