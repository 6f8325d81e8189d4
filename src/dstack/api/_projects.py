"""The projects in `~/.dstack/config.yml`: list, add and remove them, and choose the default."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstack.api import _config, _places
from dstack.api._client import Client
from dstack.api._servers import Address, FixedServer
from dstack.errors import ConfigurationError, ServerUnreachableError, UnauthorizedError
from dstack.kit.locks import locked
from dstack.kit.text import is_segment, listed

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True, slots=True)
class KnownProject:
    """One project of one server, as written in the configuration file."""

    name: str
    url: str
    is_default: bool


def known_projects() -> list[KnownProject]:
    """Return all projects in the file, without tokens.

    Raises:
        ConfigurationError: the file is malformed.
    """
    return [KnownProject(one["name"], one["url"], bool(one.get("default"))) for one in _config.projects_in_file()]


def address_in_use(project: str | None) -> Address:
    """Return the server that commands use now, with the user's token there.

    Args:
        project: the project that the command names; None for the default one.

    Raises:
        ConfigurationError: no server runs, or it runs in the background and has another port after each start.
        ServerUnreachableError: the server does not answer.
    """
    from dstack.protocol import routes

    client = Client.from_config(project_name=project)
    try:
        if not client._transport.has_server() or client._transport.call(routes.HEALTH).embedded:
            raise ConfigurationError(
                "No server with a fixed URL is in use", hint="Name one with `--url`, or start one with `dstack server`"
            )
        return client._transport.address
    finally:
        client.close()


def check_project(name: str, url: str, token: str) -> None:
    """Check with the server that the token is valid and the user has the project.

    Raises:
        ConfigurationError: the name, the URL or the token is malformed, or the user has no such project.
        ServerUnreachableError: no server answers at the URL.
        UnauthorizedError: the server does not accept the token.
        ServerError: the server at the URL is not a dstack server.
    """
    address = _checked(name, url, token)
    client = Client(FixedServer(address), name)
    try:
        known = [project.name for project in client.projects()]
    except UnauthorizedError as error:
        raise UnauthorizedError(error.message, hint="Copy the token again") from error
    except ServerUnreachableError as error:
        raise ServerUnreachableError(error.message, hint="Correct the URL, or start the server first") from error
    finally:
        client.close()
    if name not in known:
        raise ConfigurationError(
            f"This user has no project `{name}` at `{address.url}`, which has {listed(known) or 'none'}",
            hint="Name one of the user's projects, or ask an admin of the project: `dstack project set-member`",
        )


def add_project(name: str, url: str, token: str, *, is_default: bool) -> None:
    """Add a project to the file, or replace the project of that name. The first project becomes the default.

    Raises:
        ConfigurationError: the name, the URL or the token is malformed.
    """
    address = _checked(name, url, token)

    def change(projects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [one for one in projects if one["name"] != name]
        default = is_default or not any(one.get("default") for one in others)
        if default:
            others = [{**one, "default": False} for one in others]
        former: dict[str, Any] = next((one for one in projects if one["name"] == name), {})
        return [*others, {**former, "name": name, "url": address.url, "token": address.token, "default": default}]

    _rewrite(change)


def remove_project(name: str) -> None:
    """Remove a project from the file. If one project remains, it becomes the default.

    Raises:
        ConfigurationError: the file has no such project.
    """
    _check_known(name)

    def change(projects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [one for one in projects if one["name"] != name]
        return [{**others[0], "default": True}] if len(others) == 1 else others

    _rewrite(change)


def choose_default(name: str) -> None:
    """Make a project the default.

    Raises:
        ConfigurationError: the file has no such project.
    """
    _check_known(name)
    _rewrite(lambda projects: [{**one, "default": one["name"] == name} for one in projects])


def _checked(name: str, url: str, token: str) -> Address:
    if not is_segment(name):
        raise ConfigurationError(
            f"{name!a} cannot be a project's name", hint="Give the name that the project has on its server"
        )
    return _config.checked_address(url, token, where="The URL", token_where="The token")


def _check_known(name: str) -> None:
    names = [one.name for one in known_projects()]
    if name not in names:
        raise ConfigurationError(
            f"There is no project `{name}` in `{_config.config_file()}`; it has "
            f"{', '.join(f'`{one}`' for one in names) or 'none'}",
            hint="`dstack project add` adds one",
        )


def _rewrite(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    folder = _places.private_folder(_places.home())
    path = _config.config_file()
    with locked(folder / "config.lock"):
        projects = change(_config.projects_in_file())
        text = path.read_text("utf-8") if path.exists() else ""
        _places.write_whole(path, _with_projects(text, projects))


def _with_projects(text: str, projects: list[dict[str, Any]]) -> str:
    """Return the file's text with other projects. The rest of the text and its comments stay where possible."""
    import yaml

    wanted = {**(yaml.safe_load(text) or {}), "projects": projects}
    text = text if text.endswith("\n") or not text else f"{text}\n"
    written = yaml.safe_dump({"projects": projects}, sort_keys=False, allow_unicode=True)
    begin, end = _place_of_projects(yaml.compose(text, yaml.SafeLoader), len(text))
    whole = text[:begin] + (written.removesuffix("\n") if text[end:] else written) + text[end:]
    try:
        if yaml.safe_load(whole) == wanted:
            return whole
    except yaml.YAMLError:
        pass  # for example, an alias refers to an anchor that stood in the old projects
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _place_of_projects(root: "yaml.Node | None", size: int) -> tuple[int, int]:
    """Return where the key `projects` begins and its value ends; the end of the text if the key is missing."""
    pairs: list[tuple[yaml.Node, yaml.Node]] = root.value if root is not None else []
    for key, value in pairs:
        if key.value == "projects":
            return key.start_mark.index, _end_of(value)
    return size, size


def _end_of(node: "yaml.Node") -> int:
    """Return where a value ends, before the comments that follow it."""
    if isinstance(node.value, str) or getattr(node, "flow_style", True) or not node.value:
        return node.end_mark.index
    last = node.value[-1]
    return _end_of(last[1] if isinstance(last, tuple) else last)
