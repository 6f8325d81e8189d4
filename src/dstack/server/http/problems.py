"""Errors over HTTP: problem details (RFC 9457) with the code, message and hint that the client shows."""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from dstack.errors import (
    BackendError,
    DatabaseUnavailable,
    DstackError,
    ForbiddenError,
    InvalidRequestError,
    ResourceExistsError,
    ResourceNotExistsError,
    ServerClientError,
    ServerError,
    StorageUnavailable,
    UnauthorizedError,
)
from dstack.kit.text import storable
from dstack.protocol.views import MistakeView, Problem
from dstack.protocol.wire import encoded

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
MEDIA_TYPE = "application/problem+json"
PROXY_PREFIX = "/proxy/"
"""The paths of the data plane."""

_STATUSES: dict[type[DstackError], int] = {
    UnauthorizedError: 401,
    ForbiddenError: 403,
    ResourceNotExistsError: 404,
    ResourceExistsError: 409,
    ServerClientError: 400,
    BackendError: 502,
    DatabaseUnavailable: 503,
    StorageUnavailable: 503,
    DstackError: 500,
}


class Unacceptable(InvalidRequestError):
    """A request that HTTP has a status of its own for."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def status_of(error: DstackError) -> int:
    """The HTTP status of an error: its own, or that of its nearest ancestor in the table."""
    if isinstance(error, Unacceptable):
        return error.status
    return next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)


def problem_of(error: DstackError, status: int) -> Problem:
    """Return the error as it crosses the wire."""
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=error.code,
        detail=storable(error.message),
        hint=storable(error.hint),
        mistakes=[
            MistakeView(path=list(path), text=storable(text))
            for path, text in (error.mistakes if isinstance(error, InvalidRequestError) else ())
        ],
    )


def answer(error: DstackError, status: int | None = None) -> Response:
    """Return the error as a response."""
    status = status or status_of(error)
    problem = problem_of(error, status)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return Response(encoded(problem), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Convert every error of the application to problem details."""

    @app.exception_handler(DstackError)
    async def known(_request: Request, error: DstackError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        places = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:10])
        return answer(InvalidRequestError(f"The request is not valid: {places}"), 422)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and request.url.path.startswith(PROXY_PREFIX):
            message = f"No data plane serves {request.url.path} now"
            return answer(ServerError(message, hint="Try again: it may be starting, or no service runs"), 503)
        hint = "Client and server may be of different versions" if error.status_code in (404, 405) else None
        message = f"{request.method} {request.url.path}: {error.detail}"
        return answer(InvalidRequestError(message, hint=hint), error.status_code)

    @app.exception_handler(ClientDisconnect)
    async def left(_request: Request, _error: ClientDisconnect) -> Response:
        # The client hears no answer; without one here the log would have a traceback for each broken upload.
        return answer(InvalidRequestError("The request did not arrive completely"), 408)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        message = f"The server failed on {request.method} {request.url.path}: {type(error).__name__}"
        return answer(ServerError(message, hint="The server's log has the details"))
