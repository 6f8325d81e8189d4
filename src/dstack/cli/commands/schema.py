"""`dstack schema`: the JSON Schema of configuration files, for editors."""

import argparse

HELP = "print the JSON Schema of configuration files, for editors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the choice of files."""
    parser.add_argument("--profiles", action="store_true", help="the schema of `profiles.yml` instead of `.dstack.yml`")


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    import json

    from dstack.cli import words
    from dstack.spec.schema import configuration_schema, profiles_schema

    words.show(json.dumps(profiles_schema() if arguments.profiles else configuration_schema(), indent=2))
    return 0
