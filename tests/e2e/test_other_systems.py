"""Clients on macOS and Windows, with a server on Linux: everything but a server of one's own works there."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.home import TOKEN, Home, wait_for
from tests.e2e.test_attach import SERVER, free_ports, get, ssh_files
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.server("shared"), pytest.mark.parametrize("system", ["darwin", "win32"])]

FOREIGN = Path(__file__).parents[1] / "foreign.py"
DAY = Path(__file__).with_name("foreign_day.py")
NAMES = {"darwin": "macOS", "win32": "Windows"}


def foreign(system: str, *program: str) -> list[str]:
    return [sys.executable, str(FOREIGN), system, *program]


def live(home: Home, system: str, local: int, port: int) -> dict[str, Any]:
    """A day with runs of files, of a port, and others."""
    home.write("run.yml", "type: task\nname: day\ncommands: ['./run.sh sub/note.txt']\n")
    home.write("run.sh", '#!/bin/sh\ncat "$1"\n').chmod(0o755 if system == "darwin" else 0o644)
    home.write("sub/note.txt", "a note\n")
    home.write("serve.py", SERVER.format(port=port))
    web = {"type": "task", "name": "web", "commands": [f"{sys.executable} -u serve.py"], "ports": [f"{local}:{port}"]}
    home.write("web.yml", json.dumps({**web, "files": ["serve.py"]}))
    home.write("idle.yml", "type: task\nname: idle\ncommands: [sleep 600]\n")
    home.write(".dstackignore", ".dstack\n*.log\nserver\n")
    url = home.env.pop("DSTACK_SERVER_URL")
    for name in ("DSTACK_TOKEN", "DSTACK_PROJECT"):
        home.env.pop(name)
    done = home.run_program(*foreign(system, str(DAY), home.project, url, TOKEN))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_client_works_through_a_day_with_a_server_elsewhere(home: Home, system: str) -> None:
    local, port = free_ports(2)
    day = live(home, system, local, port)
    assert {name: day[name]["code"] for name in day if "code" in day[name]} == {
        **dict.fromkeys(("add", "ps", "offer", "apply", "logs", "serve", "event", "idle", "stop"), 0),
        "exec": 3,
        "killed": 137,
    }, day
    assert (day["apply"]["out"], day["logs"]["out"], day["exec"]["out"]) == ("a note\n", "a note\n", "for the job\n")
    way_in = day["attached"]
    assert (way_in["is_in"], way_in["same"], way_in["said"]) == ([True, True], True, "hello from the job")
    assert way_in["ssh"].startswith("Host web\n  HostName 127.0.0.1\n") and (way_in["left"], way_in["claims"]) == (
        "",
        [],
    )
    assert (day["asked"], day["stopped"]) == (["two\n"], "terminated")

    with subprocess.Popen(
        foreign(system, "dstack.cli", "attach", "--logs", "web"),
        env=home.env,
        cwd=home.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as leaving:
        wait_for("the way in", lambda: "Host web" in ssh_files(home)[1])
        assert get(local) == b"hello from the job"
        ssh = ["ssh", "-F", str(home.path / ".dstack/ssh/config"), "web", "echo inside"]
        assert home.run_program(*ssh).stdout == "inside\n"
        leaving.send_signal(signal.SIGINT)
        assert leaving.wait(PATIENCE_S) == 130, "it waits for the log of a silent job"
    assert ssh_files(home)[1] == ""


def test_server_of_ones_own_is_refused_with_what_to_do_instead(home: Home, system: str) -> None:
    for name in [name for name in home.env if name.startswith("DSTACK_")]:
        del home.env[name]
    listed = home.run_program(*foreign(system, "dstack.cli", "project", "list"))
    assert listed.stderr == "No project is set up: `dstack project add` adds one\n"
    for command in (["ps"], ["server"], ["server", "stop"]):
        done = home.run_program(*foreign(system, "dstack.cli", *command))
        first, hint = done.stderr.splitlines()
        assert done.returncode == 1
        assert first == f"error: A server of your own cannot run on {NAMES[system]}; servers run on Linux"
        assert "dstack project add" in hint and ("WSL" in hint) is (system == "win32")
