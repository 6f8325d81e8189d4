"""`dstack run`: the older spelling of `dstack apply`."""

import argparse

from dstack.cli.commands import apply

HELP = "the older spelling of `apply`: `dstack run [DIR] -f FILE`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """As `apply`, with the folder whose files go along where `apply` takes the file."""
    parser.add_argument("folder", nargs="?", metavar="DIR", help="the folder to send with the run")
    apply.add_options(parser, parser)


def run(arguments: argparse.Namespace) -> int:
    """As `apply`."""
    if arguments.repo is None and not arguments.no_repo:
        arguments.repo = arguments.folder
    return apply.run(arguments)
