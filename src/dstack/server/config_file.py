"""The server's `config.yml`: projects and backends that it has from its first start on. Rows win over this file.

```yaml
backends:           # for all projects
- type: lambda
  creds: {type: api_key, api_key: ...}
projects:
- name: main
  backends:         # for this project
  - type: aws
    name: research  # where there are several of a type; the type by default
    creds: {type: access_key, access_key: ..., secret_key: ...}
```
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Annotated, Any

from pydantic import BeforeValidator

from dstack.backends import Drivers
from dstack.errors import ConfigurationError, InvalidRequestError
from dstack.kit.text import shown
from dstack.operations.backend_rows import NOTHING, Configured, Wanted, wanted_of
from dstack.operations.people import check_name
from dstack.spec.base import Spec
from dstack.spec.mistakes import Mistake, Mistaken, Path
from dstack.spec.parse import validated
from dstack.spec.yaml import read_yaml

SIZE_MAX_BYTES = 1 << 20


def _fields(value: object) -> object:
    """Refuse a plain word in place of a backend, with the way to write one."""
    if isinstance(value, str):
        way_out = f"write `type: {value}`, with its `creds`" if value.isalnum() else "write `type` and `creds`"
        raise ValueError(f"expected the fields of a backend, found {shown(value)}; {way_out}")
    return value


def _entries_of(value: object) -> object:
    """Refuse one backend in place of a list of them."""
    if isinstance(value, str | dict):
        word = value if isinstance(value, str) and value.isalnum() else "aws"
        raise ValueError(f"expected a list of backends, found {shown(value)}; begin each with `- type: {word}`")
    return value


Backends = Annotated[list[Annotated[dict[str, Any], BeforeValidator(_fields)]], BeforeValidator(_entries_of)]


class ProjectOfFile(Spec):
    """A project, and its backends."""

    name: str
    """The project's name. A missing project is created, also without backends."""
    backends: Backends = []
    """The backends that this project alone uses."""


class ConfigFile(Spec):
    """The contents of the file."""

    projects: list[ProjectOfFile] = []
    backends: Backends = []
    """The backends that all projects use."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A backend in the file, and its place there."""

    path: Path
    project: str | None
    config: Mapping[str, Any]


def read(path: File, drivers: Drivers) -> Configured:
    """Return the projects and backends in the file.

    Raises:
        ConfigurationError: the file cannot be read, or has mistakes; lists each as `file:line:column: text`.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"`{path}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"`{path}` is not UTF-8 text", hint="Correct the file or remove it") from error
    if len(text) > SIZE_MAX_BYTES:
        raise ConfigurationError(f"`{path}` has {len(text)} characters, and at most {SIZE_MAX_BYTES} are read")
    if all(line.lstrip()[:1] in ("", "#") for line in text.splitlines()):
        return NOTHING
    document = read_yaml(text, str(path))
    try:
        return _wanted(validated(ConfigFile, document.data), drivers)
    except Mistaken as error:
        raise document.refusal_of(error.mistakes) from None


def _wanted(file: ConfigFile, drivers: Drivers) -> Configured:
    wanted: dict[tuple[str | None, str], Wanted] = {}
    mistakes = list(_wrong_projects(file))
    for entry in _entries(file):
        try:
            one = wanted_of(entry.config, entry.project, drivers)
            if (entry.project, one.name) in wanted or (None, one.name) in wanted:
                raise Mistaken([Mistake(("type",), f"another backend has the name `{one.name}`; give each a `name`")])
            wanted[entry.project, one.name] = one
        except Mistaken as error:
            mistakes += [Mistake((*entry.path, *found.path), found.text) for found in error.mistakes]
    if mistakes:
        raise Mistaken(mistakes)
    return Configured(tuple(project.name for project in file.projects), tuple(wanted.values()))


def _wrong_projects(file: ConfigFile) -> Iterator[Mistake]:
    for at, project in enumerate(file.projects):
        try:
            check_name(project.name, "project")
        except InvalidRequestError as error:
            yield Mistake(("projects", at, "name"), error.message)


def _entries(file: ConfigFile) -> Iterator[_Entry]:
    for number, config in enumerate(file.backends):
        yield _Entry(("backends", number), None, config)
    for at, project in enumerate(file.projects):
        for number, config in enumerate(project.backends):
            yield _Entry(("projects", at, "backends", number), project.name, config)
