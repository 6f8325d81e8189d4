"""Endpoints take method, path and status from `dstack.protocol.routes`, so that server and client cannot disagree."""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter

from dstack.protocol.routes import Route
from dstack.server.http.edge import EdgeRoute

E = TypeVar("E", bound=Callable[..., Any])


def add(router: APIRouter, route: Route) -> Callable[[E], E]:
    """Serve the route with the decorated endpoint; its view is documented, not validated again."""

    def register(endpoint: E) -> E:
        responses: dict[int | str, dict[str, Any]] | None = (
            {route.status: {"model": route.view}} if route.view else None
        )
        router.add_api_route(
            route.path,
            endpoint,
            methods=[route.method],
            status_code=route.status,
            response_model=None,
            responses=responses,
            route_class_override=EdgeRoute,
        )
        return endpoint

    return register
