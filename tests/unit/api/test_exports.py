"""What `dstack.api` promises, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dstack.api

PROMISED = {
    *("Backend", "BackendCollection", "BackendType", "Client", "ClientError", "ComputeCapability"),
    *("DevEnvironment", "Disk", "GPU", "LocalRepo", "Memory", "OpenAIChatModel"),
    *("PortUsedError", "Range", "RegistryAuth", "RemoteRepo", "RepoCollection", "Resources"),
    *("Run", "RunCollection", "RunStatus", "Scaling", "Service", "TGIChatModel"),
    *("Task", "VirtualRepo"),
}


def test_every_promised_name_is_there() -> None:
    assert set(dstack.api.__all__) >= PROMISED
    assert {name: getattr(dstack.api, name).__name__ for name in PROMISED} == {name: name for name in PROMISED}


def test_type_checkers_see_the_same_names_in_the_same_places() -> None:
    tree = ast.parse(Path(dstack.api.__file__).read_text())
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dstack")
    ]
    assert {name.asname: node.module for node in imports for name in node.names} == dstack.api._HOME


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Clientt'"):
        dstack.api.Clientt  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import dstack.api", {"pydantic", "http", "yaml", "asyncssh", "rich", "asyncio", "cryptography"}),
        (
            "from dstack.api import Client, Task, Resources",
            {"http", "yaml", "asyncssh", "rich", "cryptography", "asyncio", "cronsim"},
        ),
        (
            "from dstack.cli.main import parser; parser()",
            {"pydantic", "http", "yaml", "asyncssh", "rich", "asyncio", "dataclasses", "pathlib", "json"},
        ),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(statement: str, unwanted: set[str]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert unwanted & set(loaded) == set()
