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
            {"http", "yaml", "asyncssh", "rich", "cryptography", "asyncio", "cronsim", "importlib.metadata"},
        ),
        (
            "from dstack.api import Client; Client.from_config('main', 'http://127.0.0.1:1', 'token').runs.list",
            {"pydantic", "yaml", "asyncssh", "rich", "asyncio"},
        ),
        (
            "from dstack.spec.parse import configuration_of; configuration_of({'type': 'task', 'commands': ['true']})",
            {f"dstack.spec.{kind}" for kind in ("service", "dev_environment", "fleet", "gateway", "volume")},
        ),
        (
            "from dstack.cli.commands import apply, offer; from dstack.cli import configurations; "
            "from dstack.api import _runs",
            {"pydantic", "asyncssh", "rich", "asyncio", "cronsim"},
        ),
        (
            "from dstack.cli.main import parser; parser()",
            {"pydantic", "http", "yaml", "asyncssh", "rich", "asyncio", "dataclasses", "pathlib", "json"},
        ),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(statement: str, unwanted: set[str]) -> None:
    assert unwanted & set(_printed(f"import sys; {statement}; print(*sys.modules)").split()) == set()


@pytest.mark.parametrize(
    ("before", "is_left_alone"),
    [
        ("pass", True),
        ("gc.collect()", False),  # a program that has lived for a while may have garbage
        ("gc.disable()", False),
    ],
)
def test_collector_leaves_alone_what_a_young_program_has_imported(before: str, is_left_alone: bool) -> None:
    statements = f"import gc; {before}; is_on = gc.isenabled(); from dstack.api import Client, Task; "
    printed = _printed(f"{statements}print(gc.get_freeze_count() > 0, gc.isenabled() == is_on)")
    assert printed.split() == [str(is_left_alone), "True"]


def test_later_uses_of_a_name_keep_no_garbage_alive() -> None:
    cycles = "def use():\n from dstack.api import Task\n one = []; one.append(one)\n"
    counts = "use(); before = gc.get_freeze_count(); [use() for _ in range(100)]; print(gc.get_freeze_count() - before)"
    assert _printed(f"import gc\n{cycles}{counts}").strip() == "0"


def _printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
