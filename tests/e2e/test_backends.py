"""The page about backends, followed to the letter on a server with the driver of tests."""

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.architecture.sources import ROOT
from tests.e2e.home import Home

PAGE = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
BLOCKS = {place: text for place, text in re.findall(r"```yaml (\S+)\n(.*?)```", PAGE, re.DOTALL)}
COMMANDS = re.findall(r"```sh admin\n(.*?)```", PAGE, re.DOTALL)
(PROGRAM,) = re.findall(r"```python admin\n(.*?)```", PAGE, re.DOTALL)
SECRET = "s3cret-that-is-good"


class VaporHome(Home):
    """A home whose server has the driver of tests."""

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "tests.e2e.vapor_server" if args[0] == "server" else "dstack.cli", *args]


@pytest.fixture
def home() -> Iterator[Home]:
    with closing(VaporHome()) as one:
        one.env |= {"PYTHONPATH": str(ROOT), "DSTACK_LOCAL_BACKEND": "1"}
        yield one


def follow(home: Home, commands: str) -> list[str]:
    """Run the commands of a block, each of which succeeds; return what each printed."""
    done = [home.cli(*shlex.split(line)[1:]) for line in commands.strip().splitlines()]
    assert [(one.args, one.returncode, one.stderr) for one in done if one.returncode] == []
    return [one.stdout + one.stderr for one in done]


def test_page_about_backends_works_as_written(home: Home) -> None:
    home.serve()
    add, delete = COMMANDS
    home.write("vultr.yml", BLOCKS["vultr.yml"])
    added, listed, checked = follow(home, add)
    assert "The backend `vultr` answers, and the project `main` may use it" in added
    assert re.search(r"^vultr +vultr +main +0 +", listed, re.MULTILINE), listed
    assert re.search(r"^check +1 +0 +0 ", checked, re.MULTILINE), checked
    assert follow(home, delete) == ["The backend `vultr` is deleted\n"]

    refused = home.cli("backend", "add", "-", input=BLOCKS["vultr.yml"].replace(SECRET, "old"))
    assert refused.returncode == 1 and "`creds.api_key`: the cloud does not know this key" in refused.stderr
    home.write("wrong.yml", BLOCKS["vultr.yml"].replace("api_key: s3", "key: s3") + "region: eu\n")
    refused = home.cli("backend", "add", "wrong.yml")
    assert refused.returncode == 1 and SECRET not in refused.stderr
    assert "\nwrong.yml:4:3: unknown field `key`; did you mean `api_key`?" in refused.stderr
    assert "\nwrong.yml:5:1: unknown field `region`; did you mean `regions`?" in refused.stderr
    missing = home.cli("backend", "delete", "vulltr")
    assert missing.stderr == "error: There is no backend `vulltr`\nhint: Known are `local`\n", "no question was asked"
    home.write("program.py", PROGRAM)
    done = home.run_program(sys.executable, "program.py")
    assert done.stdout == "['local', 'research']\nNone\nTrue\n", done.stderr

    home.write(".dstack/server/config.yml", BLOCKS["config.yml"])
    home.kill_server()
    assert "everyones" in home.cli("backend", "list").stdout
    assert "vision" in home.cli("project", "list", "--on-server").stdout
    written = [path for path in home.data.rglob("*") if path.is_file() and path.name != "config.yml"]
    logged = [home.path / "servers.log", *written]
    assert [path for path in logged if SECRET.encode() in path.read_bytes()] == [], "credentials are ciphertext"


def test_server_with_a_mistake_in_its_file_does_not_start(home: Home) -> None:
    home.write(".dstack/server/config.yml", "projects:\n- name: main\n  backends:\n  - type: vulltr\n")
    home.env["DSTACK_SERVER_DIR"] = str(home.data)
    done = home.run_program(*home.command("server", "--port", "0"))
    assert done.returncode == 1
    assert "config.yml:4:5: there is no backend called `vulltr`; did you mean `vultr`?" in done.stderr
    assert "Traceback" not in done.stderr
