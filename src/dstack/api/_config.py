"""The choice of server and project: arguments, then the environment, then `~/.dstack/config.yml`, then the embedded
server. Sends no request.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack.api import _places
from dstack.api._servers import Address
from dstack.errors import ConfigurationError

DEFAULT_PROJECT = "main"
LONGEST_LABEL = 63
"""The longest part of a host's name, in characters."""


@dataclass(frozen=True, slots=True)
class Target:
    """A project, and the address of its server; None stands for the embedded server."""

    project: str
    address: Address | None


def find_target(
    project_name: str | None = None,
    server_url: str | None = None,
    user_token: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Target:
    """Return the project and server for the arguments of `Client.from_config`.

    Args:
        project_name: overrides `DSTACK_PROJECT` and the default project.
        server_url: requires `user_token` and a project.
        user_token: requires `server_url` and a project.
        environ: the environment.

    Raises:
        ConfigurationError: a setting is missing, malformed or unknown.
    """
    project = project_name or environ.get("DSTACK_PROJECT") or None
    if server_url or user_token:
        return _explicit(("project_name", project), ("server_url", server_url), ("user_token", user_token))
    from_environ = environ.get("DSTACK_SERVER_URL"), environ.get("DSTACK_TOKEN")
    if any(from_environ):
        url, token = from_environ
        return _explicit(("DSTACK_PROJECT", project), ("DSTACK_SERVER_URL", url), ("DSTACK_TOKEN", token))
    projects = projects_in_file()
    if projects:
        return _of_file(config_file(), projects, project)
    return Target(project or DEFAULT_PROJECT, None)


def _explicit(*fields: tuple[str, str | None]) -> Target:
    missing = [f"`{name}`" for name, value in fields if not value]
    if missing:
        names = ", ".join(f"`{name}`" for name, _ in fields)
        raise ConfigurationError(f"{' and '.join(missing)} must be given too", hint=f"Give {names} together")
    (_, project), (url_name, url), (token_name, token) = fields
    return Target(
        str(project), checked_address(str(url), str(token), where=f"`{url_name}`", token_where=f"`{token_name}`")
    )


def config_file() -> Path:
    """Return the path of the configuration file, `~/.dstack/config.yml`."""
    return _places.home() / "config.yml"


def projects_in_file() -> list[dict[str, Any]]:
    """Return the projects as written in the file; none without a file.

    Raises:
        ConfigurationError: the file is malformed.
    """
    path = config_file()
    return _projects(path) if path.exists() else []


def checked_address(url: str, token: str, *, where: str, token_where: str) -> Address:
    """Return the address of a URL and a token.

    Args:
        url: the server's URL.
        token: the user's token.
        where: the name of the URL's setting, for errors.
        token_where: the name of the token's setting, for errors.

    Raises:
        ConfigurationError: the URL or the token is malformed.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        labels = (parts.hostname or "").removesuffix(".").split(".")
        good = (
            parts.scheme in ("http", "https")
            and url.isprintable()
            and all(0 < len(label) <= LONGEST_LABEL for label in labels)
            and parts.port != 0
        )
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(f"{where}: `{url}` is not a URL", hint="Write it like `http://127.0.0.1:3000`")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigurationError(f"{token_where}: the token has characters that no token has", hint="Copy it again")
    return Address(url.rstrip("/"), token)


def _of_file(path: Path, written: list[dict[str, Any]], wanted: str | None) -> Target:
    projects = {project["name"]: project for project in written}
    if wanted is None:
        defaults = [project for project in projects.values() if project.get("default")]
        if len(defaults) != 1:
            what = "No project is" if not defaults else f"{len(defaults)} projects are"
            raise ConfigurationError(
                f"{what} marked as default in `{path}`, which has {_names(projects)}",
                hint="Name one with `--project`, or choose the default with `dstack project set-default NAME`",
            )
        project = defaults[0]
    elif wanted in projects:
        project = projects[wanted]
    else:
        raise ConfigurationError(
            f"There is no project `{wanted}` in `{path}`, which has {_names(projects)}",
            hint="Name one of those, or add it to the file",
        )
    where = f"{path}: project `{project['name']}`"
    address = checked_address(project["url"], project["token"], where=where, token_where=where)
    return Target(project["name"], address)


def _names(projects: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in projects) or "none"


def _projects(path: Path) -> list[dict[str, Any]]:
    document = _load(path)
    projects = document.get("projects", []) if isinstance(document, dict) else document
    if not isinstance(projects, list) or not isinstance(document, dict):
        raise ConfigurationError(f"{path}: expected a mapping with a list of `projects`", hint=_EXAMPLE)
    for number, project in enumerate(projects, start=1):
        if not isinstance(project, dict):
            raise ConfigurationError(f"{path}: project {number} is not a mapping", hint=_EXAMPLE)
        missing = [f"`{name}`" for name in ("name", "url", "token") if not isinstance(project.get(name), str)]
        if missing:
            name = project.get("name", number)
            raise ConfigurationError(f"{path}: project `{name}` has no {' and no '.join(missing)}", hint=_EXAMPLE)
    return projects


_EXAMPLE = "A project is written as `- {name: main, url: http://127.0.0.1:3000, token: …, default: true}`"


def _load(path: Path) -> object:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigurationError(f"`{path}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"`{path}` is not UTF-8 text", hint="Correct the file or remove it") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigurationError(f"{place}: {problem}", hint="Correct the file or remove it") from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # A value that YAML cannot convert, such as the date `2024-99-99`, or endless nesting.
        raise ConfigurationError(f"{path}: {error}", hint="Correct the file or remove it") from error
