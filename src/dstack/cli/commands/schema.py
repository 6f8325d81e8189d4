"""`dstack schema`: the JSON Schema of configuration files, for editors."""

import argparse

HELP = "print the JSON Schema by which editors check configuration files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which files."""
    parser.add_argument("--profiles", action="store_true", help="of `profiles.yml` instead of `.dstack.yml`")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    import json

    from dstack.cli import words
    from dstack.spec.schema import configuration_schema, profiles_schema

    words.show(json.dumps(profiles_schema() if arguments.profiles else configuration_schema(), indent=2))
    return 0
