"""`dstack secret`: values that configurations refer to as `${{ secrets.NAME }}`."""

import argparse

HELP = "set, list, get and delete secrets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", dest="action")
    parser.set_defaults(json=False)  # without an action, the list
    keep = actions.add_parser("set", help="set a secret; without VALUE, ask for it or read stdin")
    keep.add_argument("name", metavar="NAME")
    keep.add_argument("value", metavar="VALUE", nargs="?")
    every = actions.add_parser("list", help="list names without values")
    every.add_argument("--json", action="store_true", help="as JSON")
    show = actions.add_parser("get", help="show a value")
    show.add_argument("name", metavar="NAME")
    show.add_argument("--json", action="store_true", help="as JSON")
    forget = actions.add_parser("delete", help="delete a secret")
    forget.add_argument("name", metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    import json

    from dstack.cli import words
    from dstack.cli.clients import client_of
    from dstack.spec.secrets import check_name

    if arguments.action == "set":
        check_name(arguments.name)
    client = client_of(arguments)
    match arguments.action:
        case "set":
            value = (
                arguments.value if arguments.value is not None else words.asked_secret(f"Value of `{arguments.name}`")
            )
            client.secrets.set(arguments.name, value)
            words.say(f"The secret `{arguments.name}` is set; use it as `${{{{ secrets.{arguments.name} }}}}`")
        case "get":
            value = client.secrets.get(arguments.name)
            words.show(json.dumps({"name": arguments.name, "value": value}) if arguments.json else value)
        case "delete":
            client.secrets.delete(arguments.name)
            words.say(f"The secret `{arguments.name}` is deleted")
        case _:
            _list(arguments)
    return 0


def _list(arguments: argparse.Namespace) -> None:
    from dstack.cli import words
    from dstack.cli.clients import client_of
    from dstack.kit.clock import SystemClock

    found = client_of(arguments).secrets.list()
    if arguments.json:
        words.show_json(found)
    else:
        now = SystemClock().now()
        words.show(words.table(("NAME", "SET"), [(one.name, words.age(one.updated_at, now)) for one in found]))
