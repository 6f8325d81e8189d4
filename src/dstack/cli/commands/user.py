"""`dstack user`: the users of a server, for its admins; and the tokens of each user."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from dstack.api import Client

HELP = "list, add and delete users of the server; manage tokens"
FIRST_TOKEN = "first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", dest="action")
    parser.set_defaults(json=False, user=None)  # without an action, the list
    every = actions.add_parser("list", help="all users")
    add = actions.add_parser("add", help="add a user, and show a token for them once")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--admin", action="store_true", help="make the user an admin of the server")
    grant = actions.add_parser("set-admin", help="make a user an admin of the server, or no admin")
    grant.add_argument("name", metavar="NAME")
    grant.add_argument("--no", action="store_true", help="make the user no admin")
    remove = actions.add_parser("delete", help="delete a user, with tokens and memberships")
    remove.add_argument("name", metavar="NAME")
    me = actions.add_parser("me", help="the user of this computer's token")
    tokens = actions.add_parser("tokens", help="your tokens, without their values")
    create = actions.add_parser("create-token", help="create a token, and show it once")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--expires", metavar="TIME", help="the time until it expires, such as `30d` (default: never)")
    drop = actions.add_parser("delete-token", help="delete a token")
    drop.add_argument("name", metavar="NAME")
    for one in (tokens, create, drop):
        one.add_argument("--user", metavar="NAME", help="another user, for admins of the server")
    for one in (every, add, me, tokens, create):
        one.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    from dstack.cli import words
    from dstack.cli.clients import client_of

    client = client_of(arguments)
    match arguments.action:
        case "add":
            _add(client, arguments)
        case "set-admin":
            client.users.set_admin(arguments.name, not arguments.no)
            words.say(f"The user `{arguments.name}` is {'no admin' if arguments.no else 'an admin'} of the server")
        case "delete":
            client.users.delete(arguments.name)
            words.say(f"The user `{arguments.name}` is deleted")
        case "me":
            found = client.users.me()
            if arguments.json:
                words.show_json(found)
            else:
                words.show(f"{found.name}{', an admin of the server' if found.is_admin else ''}")
        case "tokens" | "create-token" | "delete-token":
            _on_tokens(client, arguments)
        case _:
            _list(client, arguments)
    return 0


def _on_tokens(client: "Client", arguments: argparse.Namespace) -> None:
    from dstack.cli import words

    match arguments.action:
        case "create-token":
            _create_token(client, arguments)
        case "delete-token":
            client.tokens.delete(arguments.name, arguments.user)
            words.say(f"The token `{arguments.name}` is deleted; streams that it opened end within 15 s")
        case _:
            _list_tokens(client, arguments)


def _add(client: "Client", arguments: argparse.Namespace) -> None:
    from dstack.cli import words

    had_local = _offers_local(client)
    client.users.create(arguments.name, arguments.admin)
    token = client.tokens.create(FIRST_TOKEN, user=arguments.name)
    if arguments.json:
        words.show_json(token)
    else:
        words.say(f"The user `{arguments.name}` is added. Their token is shown only now:")
        words.show(token.value or "")
        words.say(
            f"Add them to a project with `dstack project set-member {arguments.name}`. On their computer, they run "
            "`dstack project add --name PROJECT --url URL`"
        )
    if had_local and not _offers_local(client):
        words.say_warning(
            "New runs no longer use the server's own machine: a job there could read the data of all users. "
            "Start the server with `DSTACK_LOCAL_BACKEND=1` if all users trust each other"
        )


def _offers_local(client: "Client") -> bool:
    """Return whether runs may use the server's own machine; False if the project by which to ask is missing."""
    from dstack.errors import ResourceNotExistsError

    try:
        return any(one.name == "local" for one in client.backends.list())
    except ResourceNotExistsError:
        return False


def _list(client: "Client", arguments: argparse.Namespace) -> None:
    from dstack.cli import words
    from dstack.kit.clock import SystemClock

    found = client.users.list()
    if arguments.json:
        words.show_json(found)
        return
    now = SystemClock().now()
    rows = [(one.name, "admin" if one.is_admin else "user", words.age(one.created_at, now)) for one in found]
    words.show(words.table(("NAME", "ROLE", "CREATED"), rows))


def _create_token(client: "Client", arguments: argparse.Namespace) -> None:
    from dstack.cli import words

    lasts = None if arguments.expires is None else _time_of_token(arguments.expires)
    token = client.tokens.create(arguments.name, lasts, arguments.user)
    if arguments.json:
        words.show_json(token)
        return
    words.say(f"The token `{arguments.name}` is shown only now:")
    words.show(token.value or "")


def _time_of_token(text: str) -> "timedelta":
    from datetime import timedelta

    from dstack.errors import ConfigurationError
    from dstack.kit.units import parse_duration
    from dstack.protocol.requests import TOKEN_SECONDS_MAX, TOKEN_SECONDS_MIN

    try:
        seconds = parse_duration(text)
        if not TOKEN_SECONDS_MIN <= seconds <= TOKEN_SECONDS_MAX:
            raise ValueError(f"expected `1m` to `3650d`, found `{text}`")
    except ValueError as error:
        raise ConfigurationError(f"`--expires`: {error}", hint="Write a time such as `30d`") from None
    return timedelta(seconds=seconds)


def _list_tokens(client: "Client", arguments: argparse.Namespace) -> None:
    from dstack.cli import words
    from dstack.kit.clock import SystemClock

    found = client.tokens.list(arguments.user)
    if arguments.json:
        words.show_json(found)
        return
    now = SystemClock().now()
    rows = [
        (one.name, words.age(one.created_at, now), words.clock(one.expires_at, now) if one.expires_at else "never")
        for one in found
    ]
    words.show(words.table(("NAME", "CREATED", "EXPIRES"), rows))
