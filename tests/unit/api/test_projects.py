"""The file of projects, as people and the command write it."""

from pathlib import Path

import pytest
import yaml

from dstack.api import ConfigurationError, ServerUnreachableError, UnauthorizedError
from dstack.api._config import Target, find_target
from dstack.api._projects import add_project, check_project, choose_default, known_projects, remove_project
from dstack.protocol.accounts import ProjectList, ProjectView
from dstack.protocol.views import Problem
from dstack.protocol.wire import encoded

from .conftest import Answer, FakeServer

WRITTEN = """\
# Mine.
theme: {color: blue}  # of the terminal
projects:
# The first one.
- name: main
  url: http://a
  token: t1
  default: true
  note: kept
- {name: other, url: http://b, token: t2}

# What comes after.
plugins:
- one
"""
FRAME = ("# Mine.\ntheme: {color: blue}  # of the terminal\nprojects:\n", "\n\n# What comes after.\nplugins:\n- one\n")


@pytest.fixture
def path(home: Path) -> Path:
    (home / ".dstack").mkdir()
    return home / ".dstack" / "config.yml"


def add(name: str, *, is_default: bool = False) -> None:
    add_project(name, "http://c", "t3", is_default=is_default)


def test_what_else_is_in_the_file_stays_with_its_comments(path: Path) -> None:
    path.write_text(WRITTEN)
    for change in (lambda: add("third"), lambda: choose_default("third"), lambda: remove_project("other")):
        change()
        text = path.read_text()
        assert text.startswith(FRAME[0]) and text.endswith(FRAME[1])
    assert [(one.name, one.is_default) for one in known_projects()] == [("main", False), ("third", True)]


def test_what_else_a_project_has_stays_when_it_is_changed(path: Path) -> None:
    path.write_text(WRITTEN)
    add("main")
    assert yaml.safe_load(path.read_text())["projects"][-1] == {
        "name": "main",
        "url": "http://c",
        "token": "t3",
        "default": True,
        "note": "kept",
    }


OTHERS = {
    "in one line": "{theme: blue, projects: [{name: main, url: 'http://a', token: t, default: true}]}",
    "without an end of line": "theme: blue\nprojects: [{name: main, url: 'http://a', token: t, default: true}]",
    "without projects": "theme: blue",
    "projects of nothing": "projects: []\ntheme: blue\n",
    "what the projects share": (
        "projects: [&one {name: main, url: 'http://a', token: t}, {<<: *one, name: b}]\ntheme: blue\n"
    ),
    "what refers to the projects": ("projects:\n- name: &theme blue\n  url: http://a\n  token: t\ntheme: *theme\n"),
    "twice": "projects: []\nprojects: []\ntheme: blue\n",
    "a text of many lines": "projects:\n- name: main\n  url: http://a\n  token: |-\n    t\ntheme: blue\n",
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_however_the_file_is_written_its_meaning_stays(path: Path, text: str) -> None:
    path.write_text(text)
    before = yaml.safe_load(text)
    add("new", is_default=True)
    after = yaml.safe_load(path.read_text())
    assert after["theme"] == before["theme"] == "blue"
    assert [one["name"] for one in after["projects"]] == [*(one["name"] for one in before.get("projects", [])), "new"]
    assert next(one for one in after["projects"] if one["name"] == "new")["default"] is True


def test_a_first_project_makes_the_file_and_is_the_default(path: Path) -> None:
    add("main")
    assert yaml.safe_load(path.read_text()) == {
        "projects": [{"name": "main", "url": "http://c", "token": "t3", "default": True}]
    }


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\nb", "\udcff"])
def test_a_name_that_no_project_can_have_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a project's name"):
        add(name)
    assert not path.exists()


def test_after_the_last_project_is_removed_the_embedded_server_counts(path: Path) -> None:
    add("main")
    remove_project("main")
    assert find_target() == Target("main", None)
    assert find_target("other") == Target("other", None)


def test_project_that_is_left_alone_is_the_default(path: Path) -> None:
    add("main")
    add("other")
    remove_project("main")
    assert [(one.name, one.is_default) for one in known_projects()] == [("other", True)]
    assert find_target().project == "other"


def projects_of(server: FakeServer, *names: str) -> None:
    body = encoded(ProjectList(projects=[ProjectView(name=name, role="admin") for name in names]))
    server.answer = lambda asked: Answer(body=body)


def test_project_that_the_server_confirms_is_accepted(server: FakeServer) -> None:
    projects_of(server, "main", "other")
    check_project("other", server.url, "t1")
    assert server.asked[0].headers["Authorization"] == "Bearer t1"


def test_project_that_the_server_does_not_have_is_refused_with_those_it_has(server: FakeServer) -> None:
    projects_of(server, "main", "other")
    with pytest.raises(ConfigurationError, match=r"no project `mian` at .* which has `main`, `other`"):
        check_project("mian", server.url, "t1")


def test_token_that_the_server_does_not_know_is_refused(server: FakeServer) -> None:
    body = Problem(title="", status=401, code="unauthorized", detail="The server does not know this token")
    server.answer = lambda asked: Answer(status=401, body=encoded(body))
    with pytest.raises(UnauthorizedError, match="does not know this token: `http://127"):
        check_project("main", server.url, "t1")


def test_url_at_which_no_server_answers_is_refused() -> None:
    with pytest.raises(ServerUnreachableError) as refused:
        check_project("main", "http://127.0.0.1:1", "t1")
    assert refused.value.hint == "Correct the URL, or start the server first"
