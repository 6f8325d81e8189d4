"""A running server reads configurations; this process reads what the server cannot."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dstack.api import Client
from dstack.api._embedded import EmbeddedServer
from dstack.api._reading import read_by
from dstack.api._servers import Address, FixedServer
from dstack.protocol.requests import ReadConfiguration
from dstack.spec.mistakes import Mistake, Mistaken

from .conftest import Answer, Asked, FakeServer

TASK: dict[str, Any] = {"type": "task", "commands": ["x"]}


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with closing(Client(FixedServer(Address(server.url, "t")), "main")) as client:
        yield client


def answered(server: FakeServer, reply: dict[str, Any], status: int = 200) -> list[Any]:
    """Let the server answer each request so. Returns a list that gets the bodies of the requests."""
    bodies: list[Any] = []

    def answer(asked: Asked) -> Answer:
        assert (asked.method, asked.path) == ("POST", "/api/configurations")
        bodies.append(json.loads(asked.body))
        return Answer(status, json.dumps(reply).encode())

    server.answer = answer
    return bodies


def test_running_server_reads_the_configuration(client: Client, server: FakeServer) -> None:
    note = {"path": ["env", 0], "text": "old"}
    bodies = answered(server, {"configuration": {"type": "task", "a": 1}, "ports": {"80": None}, "notes": [note]})
    found = read_by(client, ReadConfiguration(configuration=TASK, changes={"priority": 1}, profile="a"))
    assert (found.configuration, found.ports) == ({"type": "task", "a": 1}, {80: None})
    assert found.notes == [Mistake(("env", 0), "old")]
    assert bodies == [{"configuration": TASK, "changes": {"priority": 1}, "profile": "a"}]


def test_mistakes_that_the_server_found_are_raised(client: Client, server: FakeServer) -> None:
    answered(server, {"configuration": {}, "mistakes": [{"path": ["a", 1], "text": "wrong"}], "document": 1})
    with pytest.raises(Mistaken) as caught:
        read_by(client, ReadConfiguration(configuration=TASK))
    assert (caught.value.mistakes, caught.value.document) == ([Mistake(("a", 1), "wrong")], 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_price": float("inf")}, "`max_price`: expected a finite number, found `inf`"),
        ({"priority": 1 << 80}, "`priority`: expected at most 100, found"),
        ({"name": "a\0"}, "`name`: expected text that can be written down, found the character U+0000"),
        ({"env": {"\ud800": "x"}}, "expected text that can be written down, found the character U+D800"),
    ],
)
def test_data_that_json_lacks_is_read_here(
    client: Client, server: FakeServer, fields: dict[str, Any], message: str
) -> None:
    bodies = answered(server, {})
    with pytest.raises(Mistaken) as caught:
        read_by(client, ReadConfiguration(configuration={**TASK, **fields}))
    assert message in caught.value.with_fields().message and bodies == []


def test_configuration_that_the_server_refuses_is_read_here(client: Client, server: FakeServer) -> None:
    problem = {"title": "Not Found", "status": 404, "code": "invalid_request", "detail": "older server"}
    bodies = answered(server, problem, 404)
    assert read_by(client, ReadConfiguration(configuration=TASK)).configuration == TASK
    assert len(bodies) == 1


def test_configuration_starts_no_server(tmp_path: Path) -> None:
    with closing(Client(EmbeddedServer(tmp_path / "server", command=("false",)), "main")) as client:
        assert read_by(client, ReadConfiguration(configuration=TASK)).configuration == TASK
    assert not (tmp_path / "server").exists()
