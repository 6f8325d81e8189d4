"""Instances over HTTP."""

from fastapi import APIRouter
from starlette.responses import Response

from dstack.operations import inventory
from dstack.protocol import routes
from dstack.server.http.calls import At, By, json_of
from dstack.server.http.routing import add

router = APIRouter()


@add(router, routes.LIST_INSTANCES)
async def list_instances(context: At, user: By, project: str) -> Response:
    """Return the instances of a project."""
    return json_of(await inventory.instances(context, user, project))
