"""The page for teams, followed to the letter: a server, its admin, and a member on another computer."""

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.architecture.sources import ROOT
from tests.e2e.home import Home

PAGE = (ROOT / "docs" / "team.md").read_text(encoding="utf-8")
BLOCKS = [(language, place, text) for language, place, text in re.findall(r"```(\w+) (\w+)\n(.*?)```", PAGE, re.DOTALL)]
URL = "http://127.0.0.1:3000"


@pytest.fixture
def ada() -> Iterator[Home]:
    """The computer of a member: nothing of the server's is there."""
    with closing(Home()) as one:
        yield one


@pytest.fixture
def admin(home: Home) -> Home:
    """The server's machine, with a server as the page starts it."""
    exports = dict(re.findall(r"^export (\w+)=(\S+)$", BLOCKS[0][2], re.MULTILINE))
    home.env |= exports
    home.serve()
    return home


def follow(home: Home, text: str, url: str, **variables: str) -> list[str]:
    """Run the commands of a block, each of which succeeds; return what each printed."""
    printed = []
    for line in text.replace(URL, url).strip().splitlines():
        words = [re.sub(r"\$(\w+)", lambda found: variables[found[1]], word) for word in shlex.split(line)]
        assert words.pop(0) == "dstack"
        done = home.cli(*words)
        assert done.returncode == 0, (line, done.stderr)
        printed.append(done.stdout)
    return printed


def test_page_for_teams_works_as_written(admin: Home, ada: Home) -> None:
    url = admin.env["DSTACK_SERVER_URL"]
    for name in ("DSTACK_SERVER_URL", "DSTACK_TOKEN", "DSTACK_PROJECT"):
        admin.env.pop(name)
    assert [place for _, place, _ in BLOCKS] == ["server", "admin", "ada", "ada", "admin"]
    add_people, work, program, remove = (text for _, _, text in BLOCKS[1:])
    *_, token, _, members = follow(admin, add_people, url)
    assert members.split() == ["USER", "ROLE", "ada", "manager", "admin", "admin"]

    ada.write("task.dstack.yml", "type: task\nname: first\ncommands: [echo hello]\n")
    _, projects, _, log, _, tokens = follow(ada, work, url, ADA_TOKEN=token.strip())
    assert (projects.split()[-2:], log) == (["vision", "manager"], "hello\n")
    assert re.findall(r"^(ci|first)\b", tokens, re.MULTILINE) == ["ci", "first"]
    ada.write("program.py", program)
    done = ada.run_program(sys.executable, "program.py")
    assert done.stdout == "[('ada', 'manager'), ('admin', 'admin')]\n['first']\n", done.stderr

    refused = ada.cli("user", "add", "eve")
    assert refused.returncode == 1 and "Only an admin of the server may" in refused.stderr
    follow(admin, remove, url)
    refused = ada.cli("ps")
    assert refused.returncode == 1 and "token" in refused.stderr
