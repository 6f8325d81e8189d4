"""The audit over HTTP."""

from fastapi import APIRouter
from starlette.responses import Response

from dstack.operations import audit
from dstack.protocol import routes
from dstack.server.http.calls import At, By, json_of
from dstack.server.http.routing import add

router = APIRouter()


@add(router, routes.AUDIT)
async def audit_backends(context: At, user: By) -> Response:
    """Return the machines of every backend, and the instances that claim them."""
    return json_of(await audit.audit(context, user))
