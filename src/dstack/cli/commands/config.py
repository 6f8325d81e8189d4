"""`dstack config`: the old name of `dstack project add`."""

import argparse

from dstack.cli.commands import project

HELP = "the old name of `project add`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `project add`; `--project` names the project."""
    project.add_server_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Add the project to the file."""
    from dstack.api._config import DEFAULT_PROJECT

    project.add_to_file(getattr(arguments, "project", None) or DEFAULT_PROJECT, arguments)
    return 0
