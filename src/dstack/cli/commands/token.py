"""`dstack token`: the tokens by which programs and computers act for a user."""

import argparse

HELP = "list, create and delete tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", dest="action")
    parser.set_defaults(json=False, user=None)  # without an action, the list
    every = actions.add_parser("list", help="all tokens, without their values")
    add = actions.add_parser("create", help="create a token, and show it once")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--expires", metavar="TIME", help="the time until it expires, such as `30d` (default: never)")
    remove = actions.add_parser("delete", help="delete a token")
    remove.add_argument("name", metavar="NAME")
    for one in (every, add, remove):
        one.add_argument("--user", metavar="NAME", help="another user, for admins of the server")
    for one in (every, add):
        one.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    from dstack.cli import words
    from dstack.cli.clients import client_of

    tokens = client_of(arguments).tokens
    match arguments.action:
        case "create":
            _create(arguments)
        case "delete":
            tokens.delete(arguments.name, arguments.user)
            words.say(f"The token `{arguments.name}` is deleted; streams that it opened end within 15 s")
        case _:
            _list(arguments)
    return 0


def _create(arguments: argparse.Namespace) -> None:
    from datetime import timedelta

    from dstack.cli import words
    from dstack.cli.clients import client_of
    from dstack.errors import ConfigurationError
    from dstack.kit.units import parse_duration

    try:
        lasts = None if arguments.expires is None else timedelta(seconds=parse_duration(arguments.expires))
    except ValueError as error:
        raise ConfigurationError(f"`--expires`: {error}", hint="Write a time such as `30d`") from None
    token = client_of(arguments).tokens.create(arguments.name, lasts, arguments.user)
    if arguments.json:
        words.show_json(token)
        return
    words.say(f"The token `{arguments.name}` is shown only now:")
    words.show(token.value or "")


def _list(arguments: argparse.Namespace) -> None:
    from dstack.cli import words
    from dstack.cli.clients import client_of
    from dstack.kit.clock import SystemClock

    found = client_of(arguments).tokens.list(arguments.user)
    if arguments.json:
        words.show_json(found)
        return
    now = SystemClock().now()
    rows = [
        (one.name, words.age(one.created_at, now), words.clock(one.expires_at, now) if one.expires_at else "never")
        for one in found
    ]
    words.show(words.table(("NAME", "CREATED", "EXPIRES"), rows))
