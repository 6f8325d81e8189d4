"""Which files go along, as the command line says it."""

import pytest

from dstack.api import RemoteRepo
from dstack.cli import options
from dstack.errors import ConfigurationError

from .conftest import Cli

SAID = (
    "exit 1\n"
    "stderr:\n"
    "error: `--branch` and `--hash` need a remote given by URL\n"
    "hint: Pass a URL to `--repo`, or check out the commit in the folder\n"
)


@pytest.mark.parametrize("which", [("--branch", "next"), ("--hash", "0a1b2c3")])
@pytest.mark.parametrize("command", [("init",), ("init", "."), ("init", "--local"), ("apply",), ("apply", "--no-repo")])
def test_a_branch_or_commit_of_a_folder_is_refused(
    cli: Cli, command: tuple[str, ...], which: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("there") / "t.yml"
    file.write_text("type: task\ncommands: [a]\n")
    yes = ("-y", "-f", str(file)) if command[0] == "apply" else ()
    assert cli(*command, *yes, *which) == SAID


@pytest.mark.parametrize(
    ("branch", "commit", "expected"),
    [
        (None, None, (None, None)),
        ("next", None, ("next", None)),
        (None, "0a1b2c3", (None, "0a1b2c3")),
        ("next", "0a1b2c3", ("next", "0a1b2c3")),
    ],
)
def test_a_url_is_a_remote_at_its_head_or_what_is_named(
    branch: str | None, commit: str | None, expected: tuple[str | None, str | None]
) -> None:
    found = options.find_remote("https://example.com/a/b", branch, commit)
    assert isinstance(found, RemoteRepo) and (found.repo_branch, found.repo_hash) == expected


@pytest.mark.parametrize("url", ["https://[x/a", "https://example.com:abc/x", "file:///x"])
def test_a_url_of_no_remote_is_not_taken_for_a_folder(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the URL of a remote repository"):
        options.find_remote(url, None, None)


@pytest.mark.parametrize("folder", ["C:\\team\\project", "d:/team/project"])
def test_folder_of_a_drive_is_no_remote(folder: str) -> None:
    assert options.find_remote(folder, None, None) is None
