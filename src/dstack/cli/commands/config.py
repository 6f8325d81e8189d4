"""`dstack config`: the older spelling of `dstack project add`."""

import argparse

from dstack.cli.commands import project

HELP = "the older spelling of `project add`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """As `project add`; the project's name is that of `--project`."""
    project.add_server_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """As `project add`."""
    from dstack.api._config import DEFAULT_PROJECT

    project.add_to_file(getattr(arguments, "project", None) or DEFAULT_PROJECT, arguments)
    return 0
