"""Users of the server and their tokens."""

from datetime import timedelta

from dstack.domain.roles import OF_SERVER_ADMINS
from dstack.errors import InvalidRequestError, ResourceExistsError, ResourceNotExistsError
from dstack.operations.context import Action, Context, authorize_on_server, creation_id, record_change
from dstack.protocol.accounts import TokenList, TokenView, UserList, UserView
from dstack.protocol.requests import CreateToken
from dstack.spec.names import OBJECT_NAME
from dstack.store import objects, users, wakes
from dstack.store.tx import Tx
from dstack.store.users import Account, User

RESERVED = ("me",)
"""Names that are words of the API's paths."""
USERS_MAX = 10_000
"""The most users of a server that are not deleted."""
TOKENS_MAX = 100
"""The most tokens of one user."""


async def me(context: Context, user: User) -> UserView:
    """Return the caller."""
    return await context.db.read(lambda tx: _view(_account(tx, user, user.name, Action.READ_ACCOUNT)))


async def list_all(context: Context, user: User) -> UserList:
    """Return all users of the server."""

    def read(tx: Tx) -> UserList:
        authorize_on_server(tx, user, Action.MANAGE_USERS)
        return UserList(users=[_view(one) for one in users.list_users(tx)])

    return await context.db.read(read)


async def create(context: Context, user: User, name: str, *, is_admin: bool, key: str | None = None) -> UserView:
    """Create a user, or restore the deleted user of that name. A repeated request returns the user again.

    With the second user, the server's own machine is no longer used by default (`Context.is_local_by_default`).

    Args:
        key: the idempotency key.

    Raises:
        InvalidRequestError: the name is malformed, or the server has too many users.
        ResourceExistsError: there is a user of that name.
    """
    check_name(name, "user")
    request_id = creation_id(context, user, key, "user", name)

    def write(tx: Tx) -> tuple[UserView, int]:
        authorize_on_server(tx, user, Action.MANAGE_USERS)
        known = users.find_user(tx, name)
        if known is None or known.deleted_at is not None:
            _check_number_of_users(tx)
            id = request_id if known is None else known.id
            users.add_user(tx, id, name, is_admin=is_admin, request_id=request_id)
            record_change(tx, user, "user.added", f"added the user {name}" + (", an admin" if is_admin else ""))
        elif not users.is_made_by(tx, known.id, request_id):
            raise ResourceExistsError(f"There is a user `{name}` already", hint="`dstack user list` shows all")
        return _view(find_account(tx, name)), users.count_users(tx)

    view, count = await context.db.write(write)
    await share_machine(context, count)
    return view


async def share_machine(context: Context, users_count: int) -> None:
    """Offer the server's own machine to one user alone where nothing but a default offers it.

    A process job on that machine is the server's own user, who can read the data of all. Queued runs get another look.
    """
    is_hidden = users_count > 1
    if context.is_local_by_default and is_hidden != ("local" in context.catalog.hidden):
        context.catalog.hide("local", is_hidden=is_hidden)
        await context.db.write(lambda tx: wakes.add(tx, "scheduler", "placement"))


async def update(context: Context, user: User, name: str, *, is_admin: bool) -> UserView:
    """Make a user an admin of the server, or no admin.

    Raises:
        InvalidRequestError: the server would have no admin.
        ResourceNotExistsError: there is no such user.
    """

    def write(tx: Tx) -> UserView:
        account = _account(tx, user, name, Action.MANAGE_USERS)
        if not is_admin:
            _check_other_admin(tx, account)
        users.set_admin(tx, account.id, is_admin=is_admin)
        if is_admin != account.is_admin:
            now = "an admin" if is_admin else "no admin any more"
            record_change(tx, user, "user.changed", f"made the user {name} {now}")
        return _view(find_account(tx, name))

    return await context.db.write(write)


async def delete(context: Context, user: User, name: str) -> None:
    """Delete a user's tokens and memberships. The name of the user stays with the finished runs.

    Raises:
        InvalidRequestError: a run of the user has not finished, or the server would have no admin.
        ResourceNotExistsError: there is no such user.
    """

    def write(tx: Tx) -> int:
        account = _account(tx, user, name, Action.MANAGE_USERS)
        _check_other_admin(tx, account)
        if active := objects.unfinished_names(tx, user_id=account.id):
            raise InvalidRequestError(
                f"{len(active)} runs of the user `{name}` have not finished, such as `{active[0]}`",
                hint="Stop them first: `dstack stop`",
            )
        users.delete_user(tx, account.id)
        record_change(tx, user, "user.deleted", f"deleted the user {name}")
        return users.count_users(tx)

    await share_machine(context, await context.db.write(write))


async def list_tokens(context: Context, user: User, name: str) -> TokenList:
    """Return a user's tokens without their values.

    Raises:
        ForbiddenError: another user's tokens are for admins of the server.
    """

    def read(tx: Tx) -> TokenList:
        account = _account(tx, user, name, Action.READ_ACCOUNT)
        found = users.list_tokens(tx, account.id)
        return TokenList(
            tokens=[TokenView(name=one.name, created_at=one.created_at, expires_at=one.expires_at) for one in found]
        )

    return await context.db.read(read)


async def create_token(
    context: Context, user: User, name: str, request: CreateToken, key: str | None = None
) -> TokenView:
    """Create a token for a user. Only this answer has its value: a repeated request gives the token another one.

    Args:
        key: the idempotency key.

    Raises:
        InvalidRequestError: the token's name is malformed, or the user has too many tokens.
        ResourceExistsError: the user has a token of that name.
    """
    check_name(request.name, "token")
    value = context.ids.new_token()
    token_id = creation_id(context, user, key, "token", name, request.name)

    def write(tx: Tx) -> TokenView:
        account = _account(tx, user, name, Action.MANAGE_TOKENS)
        known = users.list_tokens(tx, account.id)
        same = next((one for one in known if one.name == request.name), None)
        if same is not None and same.id != token_id:
            raise ResourceExistsError(
                f"The user `{name}` has a token `{request.name}` already",
                hint="Choose another name, or delete it first",
            )
        if same is not None:
            users.delete_token(tx, account.id, same.name)
        elif len(known) >= TOKENS_MAX:
            raise InvalidRequestError(
                f"The user `{name}` has {len(known)} tokens, and at most {TOKENS_MAX} are possible",
                hint="Delete some of them first: `dstack user tokens`, `dstack user delete-token`",
            )
        now = tx.clock.now()
        expires_at = None if request.expires_in_s is None else now + timedelta(seconds=request.expires_in_s)
        users.add_token(tx, token_id, account.id, request.name, value, expires_at)
        record_change(tx, user, "token.created", f"created the token {request.name} of the user {name}")
        return TokenView(name=request.name, created_at=now, expires_at=expires_at, value=value)

    return await context.db.write(write)


async def delete_token(context: Context, user: User, name: str, token: str) -> None:
    """Delete a token. It is refused from now on, and streams that it opened end within a beat.

    Raises:
        InvalidRequestError: the token is the server's own, which each start sets.
        ResourceNotExistsError: the user has no such token.
    """

    def write(tx: Tx) -> None:
        account = _account(tx, user, name, Action.MANAGE_TOKENS)
        if (name, token) == (users.FIRST_ADMIN, users.SERVER_TOKEN):
            raise InvalidRequestError(
                f"The token `{token}` is the server's own: each start of the server sets it",
                hint="Start the server with another `DSTACK_SERVER_ADMIN_TOKEN`, or `dstack server --token`",
            )
        if not any(one.name == token for one in users.list_tokens(tx, account.id)):
            raise ResourceNotExistsError(
                f"The user `{name}` has no token `{token}`", hint=f"`dstack user tokens --user {name}` shows all"
            )
        users.delete_token(tx, account.id, token)
        record_change(tx, user, "token.deleted", f"deleted the token {token} of the user {name}")

    await context.db.write(write)


def check_name(name: str, what: str) -> None:
    """Raise `InvalidRequestError` unless a user, project or token may have the name."""
    if not OBJECT_NAME.fullmatch(name) or name in RESERVED:
        raise InvalidRequestError(
            f"`{name}` cannot be a {what}'s name: expected 1 to 60 lower-case letters, digits, `.`, `_` and `-`, "
            "with a letter or digit at both ends" + (", and not `me`" if name in RESERVED else ""),
            hint="Try a name such as `ada`",
        )


def _account(tx: Tx, user: User, name: str, action: Action) -> Account:
    """Return an account on which the caller may act: the own one, or with the rights of an admin any."""
    authorize_on_server(tx, user, action)
    if name != user.name and action not in OF_SERVER_ADMINS:
        authorize_on_server(tx, user, Action.MANAGE_USERS)
    return find_account(tx, name)


def find_account(tx: Tx, name: str) -> Account:
    """Return the user of that name.

    Raises:
        ResourceNotExistsError: there is no such user, or the user was deleted.
    """
    account = users.find_user(tx, name)
    if account is None or account.deleted_at is not None:
        raise ResourceNotExistsError(
            f"There is no user `{name}`", hint="An admin of the server sees all with `dstack user list`"
        )
    return account


def _check_number_of_users(tx: Tx) -> None:
    if (count := users.count_users(tx)) >= USERS_MAX:
        raise InvalidRequestError(
            f"The server has {count} users, and at most {USERS_MAX} are possible",
            hint="Delete users who are not needed: `dstack user list`, `dstack user delete`",
        )


def _check_other_admin(tx: Tx, account: Account) -> None:
    if not any(one.is_admin and one.id != account.id for one in users.list_users(tx)):
        raise InvalidRequestError(
            f"`{account.name}` is the only admin of the server", hint="Make another user an admin first"
        )


def _view(account: Account) -> UserView:
    return UserView(name=account.name, is_admin=account.is_admin, created_at=account.created_at)
