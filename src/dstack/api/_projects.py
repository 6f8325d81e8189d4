"""The projects in `~/.dstack/config.yml`: list, add, remove, and choose the default."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dstack.api import _config, _places
from dstack.errors import ConfigurationError


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


def add_project(name: str, url: str, token: str, *, is_default: bool) -> None:
    """Add a project, in place of one of that name. The first one is the default.

    Raises:
        ConfigurationError: the URL or the token is none.
    """
    address = _config.checked_address(url, token, where="The URL", token_where="The token")

    def change(projects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [one for one in projects if one["name"] != name]
        default = is_default or not any(one.get("default") for one in others)
        if default:
            others = [{**one, "default": False} for one in others]
        return [*others, {"name": name, "url": address.url, "token": address.token, "default": default}]

    _rewrite(change)


def remove_project(name: str) -> None:
    """Take a project out of the file.

    Raises:
        ConfigurationError: it is not there.
    """
    _check_known(name)
    _rewrite(lambda projects: [one for one in projects if one["name"] != name])


def choose_default(name: str) -> None:
    """Make a project the one that counts where none is named.

    Raises:
        ConfigurationError: it is not in the file.
    """
    _check_known(name)
    _rewrite(lambda projects: [{**one, "default": one["name"] == name} for one in projects])


def _check_known(name: str) -> None:
    names = [one.name for one in known_projects()]
    if name not in names:
        raise ConfigurationError(
            f"There is no project `{name}` in `{_config.config_file()}`; it has "
            f"{', '.join(f'`{one}`' for one in names) or 'none'}",
            hint="`dstack project add` adds one",
        )


def _rewrite(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    import yaml

    folder = _places.private_folder(_places.home())
    with _places.locked(folder / "config.lock"):
        document = {"projects": change(_config.projects_in_file())}
        _places.write_whole(_config.config_file(), yaml.safe_dump(document, sort_keys=False))
