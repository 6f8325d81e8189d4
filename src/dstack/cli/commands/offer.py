"""`dstack offer`: the machines that fit requirements, with their prices."""

import argparse

from dstack.cli import options

HELP = "show the machines that fit requirements, and why others do not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the requirements."""
    parser.add_argument("-f", "--file", help="take the requirements from a configuration; `-` is stdin")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options.add_requirements(parser)
    parser.set_defaults(env=[])


def run(arguments: argparse.Namespace) -> int:
    """Show the offers; return 1 where no machine fits."""
    import sys

    from dstack.cli import configurations, words
    from dstack.cli.clients import client_of

    file = arguments.file
    sources = configurations.sources_of(file, arguments) if file else configurations.sources_of_nothing(arguments)
    client = client_of(arguments)
    plan = client.runs.get_plan(configurations.read(client, sources))
    if arguments.json:
        words.show_json(
            {name: getattr(plan.view, name) for name in ("offers", "offers_total", "max_price", "refusals")}
        )
    elif plan.offers:
        words.show(words.offers_table(plan.offers, plan.view.offers_total, plan.view.max_price, sys.stdout))
    for refusal in plan.view.refusals if not arguments.json else ():
        words.say(f"Does not fit: {refusal}")
    return 0 if plan.offers else 1
