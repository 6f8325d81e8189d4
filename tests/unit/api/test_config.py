"""Which server and which project a client speaks to."""

from pathlib import Path

import pytest

from dstack.api._config import Target, find_target
from dstack.api._servers import Address
from dstack.errors import ConfigurationError

TWO = """\
projects:
- {name: main, url: "http://127.0.0.1:3000/", token: t1, default: true}
- {name: other, url: "https://example.com", token: t2}
"""


def write(home: Path, text: str) -> Path:
    (home / ".dstack").mkdir(exist_ok=True)
    path = home / ".dstack" / "config.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "arguments", "environ", "expected"),
    [
        (None, {}, {}, Target("main", None)),
        (None, {"project_name": "x"}, {}, Target("x", None)),
        (None, {}, {"DSTACK_PROJECT": "y"}, Target("y", None)),
        (TWO, {}, {}, Target("main", Address("http://127.0.0.1:3000", "t1"))),
        (TWO, {"project_name": "other"}, {}, Target("other", Address("https://example.com", "t2"))),
        (TWO, {}, {"DSTACK_PROJECT": "other"}, Target("other", Address("https://example.com", "t2"))),
        (
            TWO,
            {"project_name": "main"},
            {"DSTACK_PROJECT": "other"},
            Target("main", Address("http://127.0.0.1:3000", "t1")),
        ),
        (
            TWO,
            {},
            {"DSTACK_SERVER_URL": "http://h:1", "DSTACK_TOKEN": "t3", "DSTACK_PROJECT": "p"},
            Target("p", Address("http://h:1", "t3")),
        ),
        (
            TWO,
            {"project_name": "q", "server_url": "http://a:2/", "user_token": "t4"},
            {"DSTACK_SERVER_URL": "http://h:1", "DSTACK_TOKEN": "t3", "DSTACK_PROJECT": "p"},
            Target("q", Address("http://a:2", "t4")),
        ),
    ],
)
def test_arguments_win_over_the_environment_which_wins_over_the_file(
    home: Path, text: str | None, arguments: dict[str, str], environ: dict[str, str], expected: Target
) -> None:
    if text is not None:
        write(home, text)
    assert find_target(**arguments, environ=environ) == expected


@pytest.mark.parametrize("text", ["", "projects: []", "plugins: [one]"])
def test_file_without_projects_is_as_no_file(home: Path, text: str) -> None:
    write(home, text)
    assert find_target() == Target("main", None)


@pytest.mark.parametrize(
    ("text", "arguments", "environ", "says"),
    [
        (None, {"server_url": "http://a", "user_token": "t"}, {}, "`project_name` must be given too"),
        (None, {"server_url": "http://a"}, {}, "`project_name` and `user_token` must be given too"),
        (None, {}, {"DSTACK_TOKEN": "t"}, "`DSTACK_PROJECT` and `DSTACK_SERVER_URL` must be given too"),
        (None, {"project_name": "p", "server_url": "ftp://a", "user_token": "t"}, {}, "`ftp://a` is not a URL"),
        (None, {"project_name": "p", "server_url": "http://a:no", "user_token": "t"}, {}, "`http://a:no` is not a URL"),
        *(
            (None, {"project_name": "p", "server_url": url, "user_token": "t"}, {}, f"`{url}` is not a URL")
            for url in ("http://a..b", f"http://{'x' * 70}", "http://\udcff", "http://a\0b", "http://[a/b", "http://.")
        ),
        (
            None,
            {"project_name": "p", "server_url": "http://a", "user_token": "s3c\nret"},
            {},
            "characters that no token",
        ),
        (TWO, {"project_name": "nope"}, {}, "There is no project `nope` in `{path}`, which has `main`, `other`"),
        (TWO.replace(", default: true", ""), {}, {}, "No project is marked as default in `{path}`, which has `main`"),
        ("- a", {}, {}, "{path}: expected a mapping with a list of `projects`"),
        ("projects: 3", {}, {}, "{path}: expected a mapping with a list of `projects`"),
        ("projects: [3]", {}, {}, "{path}: project 1 is not a mapping"),
        ("projects:\n- {name: main, url: 'http://a'}", {}, {}, "{path}: project `main` has no `token`"),
        ("projects:\n- {name: [}\n", {}, {}, "{path}:2:11: "),
        ("a: 2024-99-99", {}, {}, "{path}: month must be in 1..12"),
        ("a: !!int x", {}, {}, "{path}: invalid literal"),
        ("a: !!bool x", {}, {}, "{path}: 'x'"),
        ("a: !!timestamp x", {}, {}, "{path}: "),
        ("[" * 20_000, {}, {}, "{path}: maximum recursion depth exceeded"),
        ("projects: !!python/object:os.system {}", {}, {}, "{path}:1:11: could not determine a constructor"),
    ],
)
def test_what_cannot_work_is_told_with_its_place(
    home: Path, text: str | None, arguments: dict[str, str], environ: dict[str, str], says: str
) -> None:
    path = write(home, text) if text is not None else home
    with pytest.raises(ConfigurationError) as caught:
        find_target(**arguments, environ=environ)
    assert says.format(path=path) in caught.value.message
    assert "s3c" not in str(caught.value)


def test_a_file_that_is_not_text_is_one_clear_error(home: Path) -> None:
    write(home, "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        find_target(environ={})
