"""The configuration of a command: its file, the files of profiles, and the changes of the command line."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstack.api._places import home
from dstack.api._reading import read_by
from dstack.cli import words
from dstack.cli.options import changes_of
from dstack.errors import ConfigurationError
from dstack.kit.text import listed
from dstack.protocol.requests import ReadConfiguration
from dstack.spec import env
from dstack.spec.kinds import RUN_TYPES
from dstack.spec.mistakes import Mistaken
from dstack.spec.names import check_name
from dstack.spec.yaml import Document, read_yaml

if TYPE_CHECKING:
    from dstack.api import Client
    from dstack.spec.reading import Reading

NAMED_MAX = 5
"""The most configurations that a hint names."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of a configuration as written."""

    configuration: Document
    profiles: tuple[Document, ...]
    """The files of profiles, of this folder and of this user."""
    profile: str | None
    """The name of the profile that applies; None for the default profile."""
    changes: Mapping[str, Any]
    """The changes of the command line."""
    has_repos: bool
    """Whether the configuration's `repos` apply."""


def sources_of(file: str, arguments: argparse.Namespace) -> Sources:
    """Return the configuration in a file (`-` is stdin), with the profiles and changes that apply to it.

    Raises:
        ConfigurationError: a file is missing, or is not YAML.
    """
    return _sources(read_yaml(text_of(file), "stdin" if file == "-" else file), arguments)


def sources_of_nothing(arguments: argparse.Namespace) -> Sources:
    """Return a configuration of nothing but the profiles and changes that apply. Raises as `sources_of`."""
    return _sources(Document("", {"type": "task", "commands": [":"]}, {(): (1, 1)}), arguments)


def read(client: "Client", sources: Sources) -> "Reading":
    """Return the canonical form of a run's configuration, and write warnings about old spellings.

    Raises:
        ConfigurationError: the sources have mistakes, or do not configure a run.
    """
    documents = (sources.configuration, *sources.profiles)
    request = ReadConfiguration(
        configuration=sources.configuration.data,
        changes=dict(sources.changes),
        profiles=[one.data for one in sources.profiles],
        profile=sources.profile,
        project=client.project,
    )
    try:
        reading = read_by(client, request)
    except Mistaken as error:
        if error.document is None:
            raise error.with_fields() from None
        raise documents[error.document].refusal_of(error.mistakes) from None
    for line in sources.configuration.lines_of(reading.notes):
        words.say_warning(line)
    kind = reading.configuration["type"]
    if kind not in RUN_TYPES:
        raise ConfigurationError(
            f"`{sources.configuration.filename}` is a {kind}, which this version of dstack does not support yet",
            hint="This version runs tasks, services and dev environments",
        )
    if sources.has_repos:
        return reading
    return replace(reading, configuration={k: v for k, v in reading.configuration.items() if k != "repos"})


def check_here(reading: "Reading", name: str | None) -> None:
    """Check the name and the variables, which needs no server.

    Raises:
        ConfigurationError: the name is not valid, or a variable to pass on is missing.
    """
    if name is not None:
        check_name(name)
    env.resolve(reading.configuration.get("env", {}), os.environ)


def _sources(configuration: Document, arguments: argparse.Namespace) -> Sources:
    paths = (Path(".dstack/profiles.yml"), home() / "profiles.yml")
    return Sources(
        configuration,
        tuple(read_yaml(text_of(str(path)), str(path)) for path in paths if path.is_file()),
        getattr(arguments, "profile", None),
        changes_of(arguments),
        not getattr(arguments, "no_repo", False),
    )


def text_of(file: str, *, hint: str | None = None) -> str:
    """Return the text of a file; `-` is stdin.

    Args:
        file: its path.
        hint: the next step if it is missing; by default, the configurations in its folder.
    """
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no file `{file}`", hint=hint or _advice(Path(file).parent)) from error
    except OSError as error:
        raise ConfigurationError(f"`{file}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"`{file}` is not UTF-8 text", hint="Save it as UTF-8") from error


def _advice(folder: Path) -> str:
    """Return a hint for a configuration that is missing."""
    found = sorted(str(path) for path in folder.glob("*.dstack.yml"))[:NAMED_MAX]
    such_as = f", such as {listed(found)}" if found else ""
    return f"Name the configuration with `-f FILE`{such_as}; `-f -` reads it from stdin"
