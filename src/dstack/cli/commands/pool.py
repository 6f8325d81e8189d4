"""`dstack pool`: all machines. *Pool* is the older word for fleet."""

import argparse

HELP = "show the machines of a pool (the old name of a fleet)"
HEADERS = ("POOL", "BACKEND", "REGION", "INSTANCE", "RESOURCES", "STATUS", "PRICE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action and the format."""
    parser.add_argument("action", nargs="?", choices=("list", "ps"), default="ps", help="`ps` (default) or `list`")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show pools, or the machines in them."""
    from dstack.cli import words
    from dstack.cli.clients import client_of

    found = client_of(arguments).instances()
    if arguments.json:
        words.show_json(found)
    elif arguments.action == "list":
        words.show(words.table(("POOL", "INSTANCES"), [("default", str(len(found)))]))
    else:
        rows = [
            (
                "default",
                words.backend_of(one),
                one.region,
                one.instance_type,
                one.resources,
                one.status,
                words.price(one.price),
            )
            for one in found
        ]
        words.show(words.table(HEADERS, rows, is_fitted=True))
        for one in found:
            if one.detail:
                words.say(one.detail)
    return 0
