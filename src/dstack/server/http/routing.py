"""Endpoints take method, path and status from `dstack.protocol.routes`, so that server and client cannot disagree."""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.responses import Response

from dstack.protocol.routes import Route
from dstack.server.http.edge import EdgeRoute
from dstack.server.http.openapi import extra_of, responses_of

E = TypeVar("E", bound=Callable[..., Any])


def add(router: APIRouter, route: Route) -> Callable[[E], E]:
    """Serve the route with the decorated endpoint; its view is documented, not validated again."""

    def register(endpoint: E) -> E:
        router.add_api_route(
            route.path,
            endpoint,
            methods=[route.method],
            status_code=route.status,
            response_model=None,
            response_class=Response,
            responses=responses_of(route),
            openapi_extra=extra_of(route),
            route_class_override=EdgeRoute,
        )
        return endpoint

    return register
