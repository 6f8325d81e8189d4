"""The server's `config.yml`: its backends, or its mistakes with their places."""

from dataclasses import replace
from pathlib import Path

import pytest

from dstack.errors import ConfigurationError
from dstack.operations.backend_rows import Configured
from dstack.server import parts
from dstack.server.config_file import read
from dstack.server.settings import Settings
from tests.vapor import drivers_in

CREDS = "{type: api_key, api_key: 0123}"
GOOD = f"""\
# backends of this server
backends:
- {{type: vultr, name: everyones, creds: {CREDS}}}
projects:
- name: main
  backends:
  - type: vultr
    creds: {CREDS}
    regions: [eu]
- name: vision
"""


def read_text(folder: Path, text: str) -> Configured:
    (folder / "config.yml").write_text(text)
    return read(folder / "config.yml", drivers_in(folder))


def test_file_has_backends_for_one_project_and_for_all(tmp_path: Path) -> None:
    found = read_text(tmp_path, GOOD)
    everyones, own = found.backends
    assert found.projects == ("main", "vision")
    assert (everyones.project, everyones.name) == (None, "everyones")
    assert (own.project, own.name, own.config["regions"]) == ("main", "vultr", ["eu"])
    assert own.config["creds"]["api_key"] == "0123", "a key stays as it is written"


def test_file_of_comments_has_no_backends(tmp_path: Path) -> None:
    assert read_text(tmp_path, "# nothing\n\n") == Configured()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("projects: [", "config.yml:1:12: this is not YAML"),
        ("project: []", "config.yml:1:1: unknown field `project`; did you mean `projects`?"),
        ("projects:\n- backends: []", "config.yml:2:3: expected a field `name`, found none"),
        (
            "projects:\n- name: A B",
            "config.yml:2:3: `A B` cannot be a project's name: expected 1 to 60 lower-case letters",
        ),
        (
            "backends:\n- type: aws",
            "config.yml:2:3: there is no driver for the backend `aws`; this version can add `vultr`",
        ),
        (
            "backends: vultr",
            "config.yml:1:1: expected a list of backends, found `vultr`; begin each with `- type: vultr`",
        ),
        (
            "backends: {type: vultr}",
            "config.yml:1:1: expected a list of backends, found a mapping; begin each with `- type: aws`",
        ),
        (
            "projects:\n- name: main\n  backends:\n  - vultr",
            "config.yml:4:5: expected the fields of a backend, found `vultr`; write `type: vultr`, with its `creds`",
        ),
        ("backends:\n- creds: x", "config.yml:2:3: expected a field `type` with the type of the backend"),
        (
            f"backends:\n- {{type: vultr, creds: {CREDS}}}\n- {{type: vultr, creds: {CREDS}}}",
            "config.yml:3:4: another backend has the name `vultr`; give each a `name`",
        ),
        (f"backends:\n- {{type: vultr, creds: {CREDS}, name: A B}}", "`A B` cannot be a backend's name"),
        (
            f"backends:\n- {{type: vultr, creds: {CREDS}, name: aws}}",
            "`aws` is the type of other backends; choose another name",
        ),
        (
            "projects:\n- name: main\n  backends:\n  - type: vultr\n    creds: {type: api_key, key: s3cret}",
            "config.yml:5:28: unknown field `key`",
        ),
    ],
)
def test_mistake_is_reported_with_its_place_and_without_credentials(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_text(tmp_path, text)
    assert expected in refused.value.message
    assert "s3cret" not in refused.value.message


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.yml has 2 mistakes"):
        read_text(tmp_path, "backends:\n- type: aws\n- type: nowhere")


def test_server_with_a_mistake_in_its_file_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("backends:\n- type: nowhere")
    with pytest.raises(ConfigurationError, match=r"config\.yml:2:3: there is no backend called `nowhere`"):
        parts.outside_of(Settings(tmp_path))
    (tmp_path / "config.yml").unlink()
    assert parts.outside_of(replace(Settings(tmp_path), local_backend=False)).configured == Configured()
