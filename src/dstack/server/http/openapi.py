"""The OpenAPI document: the bodies and responses of each endpoint, with its errors and media types."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from msgspec.json import schema_components

from dstack.domain.roles import is_for_all
from dstack.protocol import requests, routes
from dstack.protocol.base import View
from dstack.protocol.routes import Route
from dstack.protocol.views import Problem
from dstack.server.http.problems import MEDIA_TYPE

OF_ALL = (408, 413, 422, 431, 503)
"""Errors of any request: it was too late, too large, not valid, or must be retried."""

_SCHEMAS = "#/components/schemas/"
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}}
_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


class Documented(FastAPI):
    """The application, with documentation that FastAPI lacks: it does not know requests and views."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, made at the first call."""
        if self.openapi_schema is None:
            components = super().openapi().setdefault("components", {})
            components.setdefault("schemas", {}).update(_schemas())
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        return super().openapi()


def responses_of(route: Route) -> dict[int | str, dict[str, Any]]:
    """Return what a route answers, by status."""
    content: dict[str, Any] = dict.fromkeys(route.media_types, _BYTES)
    if route.view is not None:
        content["application/json"] = {"schema": {"$ref": f"{_SCHEMAS}{route.view.__name__}"}}
    answer = {"content": content} if content else {}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, "content": _PROBLEM} for status in errors_of(route)
    }
    return {route.status: {"description": HTTPStatus(route.status).phrase, **answer}, **errors}


def errors_of(route: Route) -> list[int]:
    """Return the statuses of all errors that a route may answer with, but for those of our own faults (500)."""
    statuses = {*OF_ALL, *route.errors}
    if route.action is not None:
        statuses.add(401)
        if not is_for_all(route.action):
            statuses.add(403)
    if "{project}" in route.path:
        statuses.add(404)
    if route.request is not None or route.takes_bytes:
        statuses.add(400)
    return sorted(statuses)


def _schemas() -> dict[str, Any]:
    """Return the JSON Schema of each request and view, and of all that they contain, by name."""
    every = [one for one in vars(routes).values() if isinstance(one, Route)]
    views: set[type[View]] = {one.view for one in every if one.view}
    bodies = {getattr(requests, one.request) for one in every if one.request}
    return schema_components([Problem, *views, *bodies], ref_template=f"{_SCHEMAS}{{name}}")[1]


def extra_of(route: Route) -> dict[str, Any]:
    """Return what else a route's part of the document has."""
    extra: dict[str, Any] = {"security": [{"token": []}]} if route.action is not None else {}
    if route.request is not None:
        content = {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{route.request}"}}}
        extra["requestBody"] = {"required": True, "content": content}
    if route.takes_bytes:
        extra["requestBody"] = {"required": True, "content": {"application/octet-stream": _BYTES}}
    return extra
