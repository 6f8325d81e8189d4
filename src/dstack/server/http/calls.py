"""Parts of all endpoints: the caller, the context, and the response for a view."""

import json
import logging
from time import monotonic
from typing import Annotated

from fastapi import Depends, Header, Request
from msgspec import to_builtins
from starlette.responses import Response

from dstack.errors import UnauthorizedError
from dstack.kit.text import storable
from dstack.operations.context import Context
from dstack.protocol.base import View
from dstack.protocol.wire import encoded
from dstack.store import schema, users
from dstack.store.tx import Tx
from dstack.store.users import User

log = logging.getLogger(__name__)

KNOWN_FOR_S = 10.0
KNOWN_MAX = 1000


class Tokens:
    """A short-lived cache of tokens and their users, since a caller sends many requests within seconds."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[User, float]] = {}

    async def user_of(self, context: Context, token: str) -> User | None:
        """Return the token's user, as it was up to `KNOWN_FOR_S` ago. Operations check again in their transactions."""
        hashed = users.hash_of(token)
        user, until = self._known.get(hashed, (None, 0.0))
        if user is None or monotonic() > until:
            user = await context.db.read(lambda tx: _find(tx, token))
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            if user is not None:
                self._known[hashed] = user, monotonic() + KNOWN_FOR_S
        return user


def _find(tx: Tx, token: str) -> User | None:
    """Return the user of a valid token. An unknown one may be due to a database that is newer than this server."""
    user = users.find_by_token(tx, token)
    if user is None:
        schema.check(tx)
    return user


async def context_of(request: Request) -> Context:
    """The parts that operations use. Not a plain function: those FastAPI calls in threads."""
    context: Context = request.app.state.context
    return context


async def user_of(request: Request) -> User:
    """The user whom the edge has let in."""
    user: User = request.state.user
    return user


async def identify(request: Request) -> User:
    """Return the user whose token the request carries.

    Raises:
        UnauthorizedError: none, or one that is not known here.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthorizedError("The request has no token", hint="Send it as `Authorization: Bearer <token>`")
    tokens: Tokens = request.app.state.tokens
    user = await tokens.user_of(await context_of(request), token)
    if user is None:
        raise UnauthorizedError("The server does not know this token", hint="Send a token that has not been deleted")
    return user


At = Annotated[Context, Depends(context_of)]
By = Annotated[User, Depends(user_of)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=60)]
"""The key by which a repeated request is recognized."""


def json_of(view: View, status: int = 200) -> Response:
    """Answer with a view as JSON."""
    return Response(text_of(view), status, media_type="application/json")


def text_of(view: View) -> str:
    """Return a view as JSON.

    This never fails: an answer is built when its commit is done. A text that cannot be shown, which an older server may
    have stored, is shown with marks.
    """
    try:
        return encoded(view).decode()
    except UnicodeEncodeError as error:
        log.error("A %s has texts that cannot be shown; they are shown with marks: %s", type(view).__name__, error)
        return json.dumps(storable(to_builtins(view, str_keys=True)))
