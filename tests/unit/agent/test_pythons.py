"""Which Pythons of a host can give a job an environment of its own."""

from pathlib import Path

import pytest

from dstack.agent.inherited import inherited
from dstack.agent.pythons import find_pythons, make_environment, versions_of
from dstack.errors import AgentRefused


def install(prefix: Path, version: str, *modules: str, lib: str = "lib") -> Path:
    """A Python as installers lay it out."""
    program = prefix / f"bin/python{version}"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.touch(0o755)
    for module in modules:
        (prefix / lib / f"python{version}" / module).mkdir(parents=True)
    return program


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, on a host that has no other places for interpreters."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("dstack.agent.pythons._PLACES", ("{pyenv}/versions/*/bin", "{uv}/*/bin"))
    return tmp_path


def test_interpreters_are_found_on_the_path_and_where_pyenv_and_uv_put_them(home: Path) -> None:
    first = install(home / "first", "3.12", "venv", "ensurepip", lib="lib64")
    install(home / "second", "3.12", "venv", "ensurepip")
    ours = install(home / ".pyenv/versions/3.9.18", "3.9", "venv", "ensurepip")
    theirs = install(home / ".local/share/uv/python/cpython-3.13", "3.13", "venv", "ensurepip")
    found = find_pythons({"PATH": f"{home}/first/bin:relative:{home}/second/bin:{home}/missing"})
    assert found == {"3.12": str(first), "3.9": str(ours), "3.13": str(theirs)}
    assert versions_of(found) == ("3.9", "3.12", "3.13")


def test_what_cannot_make_environments_is_no_python_for_jobs(home: Path) -> None:
    install(home / "debian", "3.11", "venv")
    install(home / "shims", "3.10")
    install(home / "broken", "3.8", "venv", "ensurepip").chmod(0o644)
    install(home / "threads", "3.13t", "venv", "ensurepip")
    folders = (f"{home}/{name}/bin" for name in ("debian", "shims", "broken", "threads"))
    assert find_pythons({"PATH": ":".join(folders)}) == {}


def test_a_link_leads_to_the_library_of_its_interpreter(home: Path) -> None:
    program = install(home / "base", "3.12", "venv", "ensurepip")
    (home / "env/bin").mkdir(parents=True)
    (home / "env/bin/python3.12").symlink_to(program)
    assert find_pythons({"PATH": f"{home}/env/bin"}) == {"3.12": f"{home}/env/bin/python3.12"}


def test_an_agent_finds_the_same_interpreters_as_the_server_that_started_it(home: Path) -> None:
    install(home / "pyenv/versions/3.10.13", "3.10", "venv", "ensurepip")
    install(home / "uv/cpython-3.13", "3.13", "venv", "ensurepip")
    shim = home / "pyenv/shims/python3.10"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho pyenv: python3.10: command not found; exit 127\n")
    shim.chmod(0o755)
    servers = {
        "PATH": str(shim.parent),
        "PYENV_ROOT": f"{home}/pyenv",
        "UV_PYTHON_INSTALL_DIR": f"{home}/uv",
    }
    assert versions_of(find_pythons(servers)) == ("3.10", "3.13")
    assert find_pythons(inherited(servers)) == find_pythons(servers)


async def test_what_an_interpreter_says_that_makes_no_environment_is_passed_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = install(home / "base", "3.12", "venv", "ensurepip")
    program.write_text("#!/bin/sh\necho no room; exit 3\n")
    monkeypatch.setenv("PATH", f"{home}/base/bin:/bin")
    with pytest.raises(AgentRefused, match=r"python3\.12` could not make a virtual environment: no room"):
        await make_environment("3.12", home / "venv")
    with pytest.raises(AgentRefused, match=r"has no Python 3\.99 that makes virtual environments; it has .*3\.12"):
        await make_environment("3.99", home / "venv")
