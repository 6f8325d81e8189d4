"""The client and the runs that a command works with."""

import argparse
from collections.abc import Iterable

from dstack.api import Client, Run
from dstack.cli import words
from dstack.errors import ResourceNotExistsError
from dstack.kit.text import nearest


def client_of(arguments: argparse.Namespace) -> Client:
    """Return the client for the project that the arguments name, or for the default one."""
    return Client.from_config(project_name=getattr(arguments, "project", None))


def get_runs(client: Client, names: Iterable[str]) -> tuple[list[Run], int]:
    """Return the latest runs of those names, each once, and the number of missing ones, which are reported."""
    found: dict[str, Run] = {}
    missing = 0
    for name in names:
        try:
            run = get_run(client, name)
            found.setdefault(run.id, run)
        except ResourceNotExistsError as error:
            words.say_error(error)
            missing += 1
    return list(found.values()), missing


def get_run(client: Client, name: str) -> Run:
    """Return the latest run of that name.

    Raises:
        ResourceNotExistsError: the project has no such run.
    """
    run = client.runs.get(name)
    if run is not None:
        return run
    said = f"There is no run `{name}` in the project `{client.project}`"
    guess = nearest(name, (one.name for one in client.runs.list()))  # the active ones and the latest: few
    raise ResourceNotExistsError(
        f"{said}; did you mean `{guess}`?" if guess else said, hint="`dstack ps -a` shows all runs"
    )
