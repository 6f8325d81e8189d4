"""What endpoints share: who calls, what is at hand, and how a view is answered."""

from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from starlette.responses import Response

from dstack.errors import UnauthorizedError
from dstack.operations.context import Context
from dstack.store import users
from dstack.store.users import User


def context_of(request: Request) -> Context:
    """The parts that operations use."""
    context: Context = request.app.state.context
    return context


async def user_of(request: Request, authorization: Annotated[str, Header()] = "") -> User:
    """Whose token the request carries.

    Raises:
        UnauthorizedError: none, or one that is not known here.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthorizedError("The request carries no token", hint="Send it as `Authorization: Bearer <token>`")
    user = await context_of(request).db.read(lambda tx: users.find_by_token(tx, token))
    if user is None:
        raise UnauthorizedError(
            "The server does not know this token", hint="Check `token` in `~/.dstack/config.yml` or `DSTACK_TOKEN`"
        )
    return user


At = Annotated[Context, Depends(context_of)]
By = Annotated[User, Depends(user_of)]


def json_of(view: BaseModel, status: int = 200) -> Response:
    """A view as JSON, built once: views are valid by construction."""
    return Response(view.model_dump_json(), status, media_type="application/json")
