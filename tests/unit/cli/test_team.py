"""The commands about users and projects of a server."""

from types import SimpleNamespace
from typing import Any

import pytest

from dstack.api import Client, ResourceNotExistsError, _config
from dstack.api._servers import Address

from .conftest import Cli

ADD = ("project", "add", "--token", "t", "--offline")


def test_project_is_deleted_on_the_server_that_the_file_has_for_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli(*ADD, "--name", "main", "--url", "http://127.0.0.1:1", "--default")
    cli(*ADD, "--name", "vision", "--url", "http://127.0.0.1:2")
    deleted: list[tuple[str, str]] = []

    def delete(self: Client, name: str) -> None:
        deleted.append((self._transport.url, name))

    monkeypatch.setattr(Client, "delete_project", delete)
    said = cli("project", "delete", "vision", "--on-server", "-y")
    assert deleted.pop() == ("http://127.0.0.1:2", "vision"), said
    assert "`dstack project delete vision` removes it from the file too" in said
    assert "from the file" not in cli("project", "delete", "speech", "--on-server", "-y")
    assert deleted.pop() == ("http://127.0.0.1:1", "speech")
    cli("project", "delete", "vision", "--on-server", "-y", "--project", "main")
    assert deleted.pop() == ("http://127.0.0.1:1", "vision")


class InUse:
    """A transport to the server that commands use now."""

    address = Address("http://127.0.0.1:1", "t")

    def __init__(self, *, is_running: bool = True, is_embedded: bool = False) -> None:
        self.has_server = lambda: is_running
        self.call = lambda route: SimpleNamespace(embedded=is_embedded)

    def close(self) -> None:
        pass


def test_project_is_added_with_the_server_and_the_token_that_commands_use(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = InUse()
    client = SimpleNamespace(_transport=transport, close=transport.close)
    monkeypatch.setattr(Client, "from_config", lambda project_name: client)
    assert "The project `own` was added" in cli("project", "add", "--name", "own", "--offline")
    assert _config.projects_in_file() == [
        {"name": "own", "url": "http://127.0.0.1:1", "token": "t", "default": True},
    ]


@pytest.mark.parametrize("state", [{"is_running": False}, {"is_embedded": True}], ids=["none", "embedded"])
def test_project_without_a_url_needs_a_server_that_keeps_its_url(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, state: dict[str, bool]
) -> None:
    transport = InUse(**state)
    client = SimpleNamespace(_transport=transport, close=transport.close)
    monkeypatch.setattr(Client, "from_config", lambda project_name: client)
    said = cli("project", "add", "--name", "own", "--offline")
    assert "error: No server with a fixed URL is in use" in said and "`--url`" in said


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["words", "json"])
def test_added_user_comes_with_a_warning_where_the_machine_is_used_no_longer(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    offered: list[Any] = [SimpleNamespace(name="local")]
    client = SimpleNamespace(
        backends=SimpleNamespace(list=lambda: list(offered)),
        users=SimpleNamespace(create=lambda name, is_admin: offered.clear()),
        tokens=SimpleNamespace(create=lambda name, user: SimpleNamespace(value="s3cret")),
    )
    monkeypatch.setattr(Client, "from_config", lambda project_name: client)
    monkeypatch.setattr("dstack.cli.words.show_json", lambda view: None)
    assert "New runs no longer use the server's own machine" in cli("user", "add", "ada", *options)


@pytest.mark.parametrize("time", ["0", "59s", "3651d"])
def test_time_that_no_token_lasts_is_refused_in_the_words_of_the_option(cli: Cli, time: str) -> None:
    said = cli("user", "create-token", "ci", "--expires", time)
    assert "error: `--expires`: expected `1m` to `3650d`" in said


def test_user_is_added_without_a_project(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_project() -> Any:
        raise ResourceNotExistsError("There is no project `main`")

    client = SimpleNamespace(
        backends=SimpleNamespace(list=no_project),
        users=SimpleNamespace(create=lambda name, is_admin: None),
        tokens=SimpleNamespace(create=lambda name, user: SimpleNamespace(value="s3cret")),
    )
    monkeypatch.setattr(Client, "from_config", lambda project_name: client)
    assert "s3cret" in cli("user", "add", "ada")
