"""Writes the references of YAML, of the command line and of the HTTP API, from the code, while MkDocs builds the site.

`mkdocs.yml` names this module as a hook. No page is a file of the project, so none can be out of date.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dstack.cli.main import parser
from dstack.domain.roles import ALLOWED, OF_EVERYONE, OF_SERVER_ADMINS
from dstack.operations.context import Context
from dstack.protocol import routes
from dstack.protocol.actions import Action, Role
from dstack.protocol.routes import Route
from dstack.server.app import create_app
from dstack.server.http.openapi import OF_ALL
from dstack.server.settings import Settings
from dstack.spec.base import Spec
from dstack.spec.kinds import RUN_TYPES, TYPES
from dstack.spec.profile import Profile
from dstack.spec.run import RunFields
from dstack.spec.schema import configuration_schema

SOURCES = Path(__file__).resolve().parents[1] / "src"
SCHEMAS = "#/components/schemas/"
DEFINITIONS = "#/$defs/"
USAGE_WIDTH = 76
YAML_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "object": "mapping",
}
WORTH_SHOWING_MAX = 2**53
"""A larger limit exists because of how numbers are stored, and tells a reader nothing."""

CLI_OPENING = """\
# Command line

`dstack COMMAND --help` shows the same in a terminal. `dstack exec` exits with the code of its command, and
`dstack apply` and `dstack attach` exit with the code of their run. Other commands exit with 0 after success, 1 after
an error, 2 after a mistake in the command line, and 130 after Ctrl-C. `dstack audit` exits with 1 if the machines
differ from the record. `dstack server status`, `stop` and `restart` exit with 3 if no server runs.
"""

YAML_OPENING = """\
# YAML

Every field of every configuration file. [Configuration](../configuration.md) explains files, profiles and secrets;
[Configurations](configurations.md) has the same fields as Python objects. `type` is required in every file.
`fleet`, `gateway` and `volume` are read and checked, but they do not work yet.
"""

ROLES_OPENING = """# Roles

A member of a project has one of these roles. An admin of the server has the role `admin` in every project.

## In a project
"""

HTTP_OPENING = """\
# HTTP API

The command line and the Python API use these endpoints. A server describes them at `/openapi.json`, as OpenAPI.

```console
$ curl -H "Authorization: Bearer $TOKEN" $URL/api/projects/main/runs
```

- **Token.** Every endpoint except `/api/health` needs the header `Authorization: Bearer TOKEN`.
- **Errors.** The body of an error is a [Problem](#problem), with the media type `application/problem+json`.
- **Any request** may get one of the errors {of_all}. Each endpoint lists its other errors.
- **Runs.** `{{run}}` in a path is an id, or a name. A name stands for the latest run of that name.
- **Versions.** Clients ignore unknown fields of an answer, because a newer server may send more.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those of the site."""
    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files


def cli_page() -> str:
    """Return the page with every command, argument and option."""
    return "\n".join([CLI_OPENING, *(line for about, one in _commands(parser()) for line in _command(about, one))])


def http_page() -> str:
    """Return the page with every endpoint, and every object that one takes or returns."""
    document = create_app(Settings(data_dir=Path()), cast(Context, None)).openapi()
    notes = _module("routes")
    lines = [HTTP_OPENING.format(of_all=", ".join(str(status) for status in OF_ALL))]
    for name, route in vars(routes).items():
        if isinstance(route, Route):
            about = document["paths"][route.path][route.method.lower()]
            lines += _endpoint(route, about, _text(notes[name]))
    lines += ["## Objects", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _object(name, schema)
    return "\n".join(lines)


def yaml_page() -> str:
    """Return the page with every field of every type of configuration."""
    definitions = configuration_schema()["$defs"]
    lines = [YAML_OPENING]
    for name, kind in TYPES.items():
        own = [field for field in kind.model_fields if name not in RUN_TYPES or field not in RunFields.model_fields]
        lines += [f"## type: {name}", "", _about_type(kind), "", *_fields(kind, own, definitions)]
        if name in RUN_TYPES:
            lines += ["The [fields of every run](#fields-of-every-run) come in addition.", ""]
    task = TYPES["task"]
    lines += ["## Fields of every run", "", *_fields(task, list(RunFields.model_fields), definitions)]
    lines += ["## Profiles", "", "A profile has a name and any of these fields.", ""]
    lines += _fields(Profile, list(Profile.model_fields), {**definitions, "Profile": Profile.model_json_schema()})
    lines += ["## Mappings", ""]
    specs = {one.__name__: one for one in _specs_below(Spec)}
    for name in sorted(definitions):
        if name in specs and specs[name] not in TYPES.values():
            fields = list(specs[name].model_fields)
            lines += [f"### {name}", "", _about_type(specs[name]), "", *_fields(specs[name], fields, definitions)]
    return "\n".join(lines)


def roles_page() -> str:
    """Return the page with the table of roles and actions."""
    roles = list(Role)
    lines = [ROLES_OPENING, f"| action | {' | '.join(f'`{role}`' for role in roles)} |", "|---|" + "---|" * len(roles)]
    for action, allowed in ALLOWED.items():
        lines.append(f"| {action} | {' | '.join('yes' if role in allowed else '' for role in roles)} |")
    lines += ["", "## On the server", "", "| action | each user | admin of the server |", "|---|---|---|"]
    lines += [f"| {action} | yes | yes |" for action in Action if action in OF_EVERYONE]
    lines += [f"| {action} | | yes |" for action in Action if action in OF_SERVER_ADMINS]
    lines += ["", "## Endpoints", "", "| endpoint | action |", "|---|---|"]
    every = [route for route in vars(routes).values() if isinstance(route, Route)]
    lines += [f"| `{route.method} {route.path}` | {route.action or 'anyone, without a token'} |" for route in every]
    return "\n".join([*lines, ""])


PAGES = {
    "reference/yaml.md": yaml_page,
    "reference/cli.md": cli_page,
    "reference/http.md": http_page,
    "reference/roles.md": roles_page,
}


def _specs_below(kind: type[Spec]) -> Iterator[type[Spec]]:
    for one in kind.__subclasses__():
        yield one
        yield from _specs_below(one)


def _about_type(kind: type[Spec]) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _fields(kind: type[Spec], names: Sequence[str], definitions: Mapping[str, Any]) -> Iterator[str]:
    schema = definitions[kind.__name__]
    defaults = kind.model_construct().model_dump(mode="json", warnings=False)
    yield from ("| field | form | default | meaning |", "|---|---|---|---|")
    for name in names:
        is_needed = name in schema.get("required", ())
        default = "required" if is_needed else _yaml_default(defaults.get(name))
        forms = " or ".join(dict.fromkeys(_forms(schema["properties"][name], definitions)))
        yield _row(f"`{name}`", forms, default, _field_text(kind, name))
    yield ""


def _yaml_default(value: object) -> str:
    if value in (None, [], {}) or isinstance(value, dict | list):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _forms(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yield the forms of a value in YAML."""
    match schema:
        case {"$ref": reference}:
            name = reference.removeprefix(DEFINITIONS)
            words = definitions[name].get("enum")
            yield from [f"`{word}`" for word in words] if words else [_link(name)]
        case {"anyOf": several} | {"oneOf": several}:
            several = [one for one in several if one != {"type": "null"}]
            is_text = {"type": "string"} in several and {"type": "boolean"} in several  # any plain value, as written
            for one in several:
                if not is_text or one.get("type") not in ("number", "boolean"):
                    yield from _forms(one, definitions)
        case {"enum": words}:
            yield from (f"`{word}`" for word in words)
        case {"const": value}:
            yield "`off`" if value is False else f"`{value}`"
        case {"type": "array", "items": items}:
            yield f"list of {' or '.join(dict.fromkeys(_forms(items, definitions)))}"
        case _:
            kind = schema.get("type", "any")
            yield YAML_WORDS.get(kind if isinstance(kind, str) else kind[0], "any value")


def _field_text(kind: type[Spec], name: str) -> str:
    """Return the docstring of a field, from the class that declares it."""
    home = next(one for one in kind.__mro__ if name in vars(one).get("__annotations__", ()))
    return _text(_loaded(home.__module__).members[home.__name__].members[name])


def _commands(one: argparse.ArgumentParser, about: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield a command with what it is for, and its subcommands after it."""
    yield one.description or about, one
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield from _commands(child, helps.get(name) or "")


def _command(about: str, one: argparse.ArgumentParser) -> Iterator[str]:
    yield from (f"{'###' if one.prog.count(' ') > 1 else '##'} {one.prog}", "", _sentence(about), "")
    formatter = argparse.HelpFormatter(one.prog, width=USAGE_WIDTH)
    formatter.add_usage(one.usage, one._actions, one._mutually_exclusive_groups, prefix="")
    yield from ("```text", formatter.format_help().rstrip(), "```", "")
    rows = [_argument(action) for group in one._action_groups for action in group._group_actions if _is_shown(action)]
    if rows:
        yield from ("| argument | meaning |", "|---|---|", *rows, "")


def _is_shown(action: argparse.Action) -> bool:
    is_help = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    return not is_help and argparse.SUPPRESS not in (action.help, action.dest)


def _argument(action: argparse.Action) -> str:
    choices = "|".join(map(str, action.choices or ()))
    value = action.metavar or choices or action.dest.upper()
    if not action.option_strings:
        spelling = f"`{value}`"
    elif action.nargs == 0:
        spelling = ", ".join(f"`{option}`" for option in action.option_strings)
    else:
        spelling = ", ".join(f"`{option} {value}`" for option in action.option_strings)
    meaning = (action.help or "") % {"prog": "dstack", **vars(action)}
    return _row(spelling, _sentence(meaning))


def _endpoint(route: Route, about: Mapping[str, Any], note: str) -> Iterator[str]:
    yield from (f"## {about['summary'].capitalize()}", "", f"`{route.method} {route.path}`", "")
    yield from (note or about["description"], "")
    parameters = [one for one in about.get("parameters", []) if one["in"] != "path" and one["name"] != "accept"]
    if parameters:
        yield from ("| parameter | in | type | default |", "|---|---|---|---|")
        for one in parameters:
            yield _row(
                f"`{one['name']}`", one["in"], _type(one["schema"]).removesuffix(" or null"), _default(one["schema"])
            )
        yield ""
    if route.request is not None:
        yield from (f"**Body:** {_link(route.request)}", "")
    elif route.takes_bytes:
        yield from ("**Body:** bytes (`application/octet-stream`)", "")
    view = [_link(route.view.__name__)] if route.view else []
    answers = [*view, *(f"`{kind}`" for kind in route.media_types)]
    yield from (f"**Answer:** {route.status}{', ' if answers else ''}{' or '.join(answers)}", "")
    errors = sorted(int(status) for status in about["responses"] if int(status) not in (route.status, *OF_ALL))
    if errors:
        yield from (f"**Errors:** {', '.join(map(str, errors))}", "")


def _object(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    source = _source(name)
    about = _text(source) or schema.get("description", "")
    yield from (f"### {name}", "", " ".join(about.split("\n\n")[0].split()), "")
    if "enum" in schema:
        yield from ("| value | meaning |", "|---|---|")
        texts = {member: _text(attribute) for member, attribute in source.attributes.items()}
        order = [member.lower() for member in source.attributes]
        for value in sorted(schema["enum"], key=order.index):
            yield _row(f"`{value}`", texts.get(value.upper(), ""))
    else:
        yield from ("| field | type | default | meaning |", "|---|---|---|---|")
        needed = schema.get("required", [])
        for field, one in schema.get("properties", {}).items():
            default = "" if field in needed else _default(one)
            yield _row(f"`{field}`", _type(one), default, _text(source.members.get(field)))
    yield ""


def _source(name: str) -> Any:
    """Return the class of an object, as it is written."""
    for module in (
        "views",
        "base",
        "services",
        "accounts",
        "backends",
        "metrics",
        "requests",
        "statuses",
        "runtimes",
        "actions",
    ):
        members = _module(module).members
        if name in members and not members[name].is_alias:
            return members[name]
    raise LookupError(name)


def _module(name: str) -> Any:
    """Return a module of `dstack.protocol`, as it is written."""
    return _loaded(f"dstack.protocol.{name}")


@cache
def _loaded(name: str) -> Any:
    """Return a module, as it is written."""
    return griffe.load(name, search_paths=[SOURCES])


def _type(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"$ref": reference}:
            return _link(reference.removeprefix(SCHEMAS))
        case {"anyOf": several}:
            return " or ".join(_type(one) for one in several)
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": {"type": _} as values}:
            return f"object of {_type(values)}"
        case {"type": "string", "format": form}:
            return form
    return cast(str, schema.get("type", "any")) + _limits(schema)


def _limits(schema: Mapping[str, Any]) -> str:
    lower = schema.get("minimum")
    upper = schema.get("maximum", schema.get("maxLength", schema.get("maxItems")))
    limits = [f"≥ {lower}"] if lower is not None else []
    unit = " characters" if "maxLength" in schema else ""
    limits += [f"≤ {upper:,}{unit}"] if upper is not None and upper < WORTH_SHOWING_MAX else []
    return f" ({', '.join(limits)})" if limits else ""


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _text(source: Any) -> str:
    """Return the docstring of a class or an attribute; empty without one."""
    docstring = getattr(source, "docstring", None)
    return docstring.value if docstring else ""


def _row(*cells: str) -> str:
    """Return a row of a table. A `|` may stand in code only."""
    return "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"


def _sentence(text: str) -> str:
    """Return the text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
