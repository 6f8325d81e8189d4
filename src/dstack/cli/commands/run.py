"""`dstack run`: the old name of `dstack apply`."""

import argparse

from dstack.cli.commands import apply

HELP = "the old name of `apply`: `dstack run [DIR] -f FILE`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `apply`, with a folder to send in place of the file."""
    parser.add_argument("folder", nargs="?", metavar="DIR", help="the folder to send with the run")
    apply.add_options(parser, parser)


def run(arguments: argparse.Namespace) -> int:
    """Submit the run as `apply` does."""
    if arguments.repo is None and not arguments.no_repo:
        arguments.repo = arguments.folder
    return apply.run(arguments)
