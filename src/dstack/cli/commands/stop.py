"""`dstack stop`: end runs."""

import argparse

HELP = "stop runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and how hard."""
    parser.add_argument("run_names", metavar="RUN", nargs="+")
    parser.add_argument("-x", "--abort", action="store_true", help="at once, without time to clean up")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="show the runs as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Stop the runs that have not finished."""
    from dstack.cli import words
    from dstack.cli.clients import client_of, get_run

    client = client_of(arguments)
    runs = [get_run(client, name) for name in arguments.run_names]
    names = ", ".join(f"`{one.name}`" for one in runs)
    if not arguments.yes and not words.confirmed(f"Stop {names}?"):
        return 1
    for one in runs:
        if one.status.is_finished():
            words.say(f"{one.name}: {one.status} already")
        else:
            one.stop(abort=arguments.abort)
            words.say(f"{one.name}: {'aborting' if arguments.abort else 'stopping'}")
    if arguments.json:
        words.show_json([one.view for one in runs])
    return 0
