"""The projects in `~/.dstack/config.yml`: list, add, remove, and choose the default."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstack.api import _config, _places
from dstack.api._client import Client
from dstack.api._servers import Address, FixedServer
from dstack.errors import ConfigurationError, ServerUnreachableError, UnauthorizedError
from dstack.kit.text import is_segment, listed

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True, slots=True)
class KnownProject:
    """One project of one server, as the file has it."""

    name: str
    url: str
    is_default: bool


def known_projects() -> list[KnownProject]:
    """All projects in the file, without tokens.

    Raises:
        ConfigurationError: the file is damaged.
    """
    return [KnownProject(one["name"], one["url"], bool(one.get("default"))) for one in _config.projects_in_file()]


def check_project(name: str, url: str, token: str) -> None:
    """Ask the server whether it knows the token and the project.

    Raises:
        ConfigurationError: the name, the URL or the token cannot be one, or the user has no such project there.
        ServerUnreachableError: no server answers at the URL.
        ServerError: the server does not know the token, or is not dstack's.
    """
    address = _checked(name, url, token)
    client = Client(FixedServer(address), name)
    try:
        known = [project.name for project in client.projects()]
    except UnauthorizedError as error:
        raise UnauthorizedError(f"{error.message}: `{address.url}`", hint="Copy the token again") from error
    except ServerUnreachableError as error:
        raise ServerUnreachableError(error.message, hint="Correct the URL, or start the server first") from error
    finally:
        client.close()
    if name not in known:
        raise ConfigurationError(
            f"This user has no project `{name}` at `{address.url}`, which has {listed(known) or 'none'}",
            hint="Name one of the user's projects, or ask an admin of the server for it",
        )


def add_project(name: str, url: str, token: str, *, is_default: bool) -> None:
    """Add a project, in place of one of that name. The first one is the default.

    Raises:
        ConfigurationError: the name, the URL or the token cannot be one.
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
    """Remove a project from the file. Where one is left, that is the default.

    Raises:
        ConfigurationError: it is not there.
    """
    _check_known(name)

    def change(projects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [one for one in projects if one["name"] != name]
        return [{**others[0], "default": True}] if len(others) == 1 else others

    _rewrite(change)


def choose_default(name: str) -> None:
    """Make a project the one that counts where none is named.

    Raises:
        ConfigurationError: it is not in the file.
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
    with _places.locked(folder / "config.lock"):
        projects = change(_config.projects_in_file())
        text = path.read_text("utf-8") if path.exists() else ""
        _places.write_whole(path, _with_projects(text, projects))


def _with_projects(text: str, projects: list[dict[str, Any]]) -> str:
    """The file with other projects. What else is in it stays, with its comments where it is written line by line."""
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
        pass  # such as where something refers to what stood in the projects
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _place_of_projects(root: "yaml.Node | None", size: int) -> tuple[int, int]:
    """Where in the text the key and its value begin and end; at the very end where they are not there."""
    pairs: list[tuple[yaml.Node, yaml.Node]] = root.value if root is not None else []
    for key, value in pairs:
        if key.value == "projects":
            return key.start_mark.index, _end_of(value)
    return size, size


def _end_of(node: "yaml.Node") -> int:
    """Where a value ends, without the comments that follow it."""
    if isinstance(node.value, str) or getattr(node, "flow_style", True) or not node.value:
        return node.end_mark.index
    last = node.value[-1]
    return _end_of(last[1] if isinstance(last, tuple) else last)
