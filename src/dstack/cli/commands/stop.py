"""`dstack stop`: stop runs."""

import argparse

HELP = "stop runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the names of the runs, and how to stop them."""
    parser.add_argument("run_names", metavar="RUN", nargs="+")
    parser.add_argument("-x", "--abort", action="store_true", help="kill the jobs at once, without time to clean up")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="show the runs as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Stop the runs that have not finished; return 1 where one is missing."""
    from dstack.cli import words
    from dstack.cli.clients import client_of, get_runs
    from dstack.kit.text import listed

    client = client_of(arguments)
    runs, missing = get_runs(client, arguments.run_names)
    active = [one for one in runs if not one.status.is_finished()]
    for one in runs:
        if one not in active:
            words.say(f"{one.name}: already {one.status}")
    if (
        active
        and not arguments.yes
        and not words.confirmed(f"Stop {listed(one.name for one in active)}?", if_not="Nothing was stopped")
    ):
        return 1
    for one in active:
        one.stop(abort=arguments.abort)
        words.say(f"{one.name}: {'aborting' if arguments.abort else 'stopping'}")
    if arguments.json:
        words.show_json([one.view for one in runs])
    return int(missing > 0)
