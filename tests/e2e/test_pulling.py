"""Images that come from a registry: who may have them, and how far they are while they come."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.api import RunStatus, Task
from tests.e2e.home import Home, wait_for
from tests.e2e.tasks import run
from tests.engines import DockerEngine, Registry
from tests.registries import SlowRegistry

MIB = 1 << 20
COLUMNS = 120

pytestmark = pytest.mark.server("shared", engine="engine")


@pytest.fixture(scope="module")
def registry(engine: DockerEngine) -> Iterator[Registry]:
    """A registry with an image of three layers that this machine does not have."""
    registry = engine.serve_registry()
    files = [{"bin/sh": Path("/bin/busybox").read_bytes()}, {"one": os.urandom(3 * MIB)}, {"two": os.urandom(2 * MIB)}]
    engine.load_image(f"{registry.host}/team/app:1", files)
    engine.docker("push", f"{registry.host}/team/app:1")
    engine.docker("logout", registry.host)
    engine.docker("rmi", f"{registry.host}/team/app:1")
    yield registry
    registry.stop()


@pytest.fixture
def slow(engine: DockerEngine) -> Iterator[SlowRegistry]:
    """A registry with an image of two layers, which comes by half."""
    slow = SlowRegistry(engine.network, [{"bin/sh": Path("/bin/busybox").read_bytes()}, {"large": os.urandom(8 * MIB)}])
    yield slow
    slow.stop()


def test_a_private_image_is_pulled_with_its_password_and_its_layers_are_told(
    home: Home, engine: DockerEngine, registry: Registry
) -> None:
    image = f"{registry.host}/team/app:1"
    home.client().secrets.set("REGISTRY", registry.password)
    auth = {"username": registry.user, "password": "${{ secrets.REGISTRY }}"}
    assert run(home, "cat /one | wc -c", image=image, registry_auth=auth) == (f"{3 * MIB}\n", RunStatus.DONE, "")
    said = [event.message for event in home.client().events.list() if event.kind in ("job.layer", "job.pulling")]
    assert said[0] == "job is pulling"
    assert sorted(message.partition(" is pulled, ")[2] for message in said[1:]) == ["1 of 3", "2 of 3", "3 of 3"]
    others = run(home, "true", image=image)
    assert others[1] is RunStatus.FAILED, "who may not pull it may not use what somebody else has pulled"
    assert "or it needs a login" in others[2]
    [digest] = json.loads(engine.docker("inspect", "-f", "{{json .RepoDigests}}", image).stdout)
    wait_for("the end of its container", lambda: engine.containers() == [])
    engine.docker("rmi", image)
    by_digest = run(home, "cat /two | wc -c", image=digest, registry_auth=auth)
    assert by_digest == (f"{2 * MIB}\n", RunStatus.DONE, "")


def test_a_run_that_is_followed_tells_how_far_its_image_is(home: Home, slow: SlowRegistry) -> None:
    one = home.client().runs.submit(Task(image=slow.image, commands=["echo here"]))
    held_back = True
    for now in one.changes():
        pull = now.view.jobs[0].pull
        if held_back and pull is not None and pull.got_bytes > MIB:
            held_back = False
            assert now.detail.startswith(f"pulling the image: {pull.got_bytes / 1e6:.1f} MB of ")
            assert (pull.layers, pull.layers_ready) == (2, 0)
            slow.give_rest()
    assert (one.status, one.view.jobs[0].pull, held_back) == (RunStatus.DONE, None, False)


def test_a_terminal_shows_a_bar_that_grows_on_one_line(home: Home, slow: SlowRegistry) -> None:
    task = {"type": "task", "name": "slow", "image": slow.image, "commands": ["echo here"]}
    home.write("run.yml", json.dumps(task))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    apply = subprocess.Popen(
        home.command("apply", "-y", "-f", "run.yml"),
        env=home.env,
        cwd=home.path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = ""
    while chunk := _read(ours):
        shown += chunk
        if re.search(r"\[#{3,}-+\]", shown):
            slow.give_rest()
    os.close(ours)
    assert (apply.communicate()[0], apply.returncode) == (b"here\n", 0)
    bars = [line for line in re.split(r"[\r\n]", shown) if line.startswith("slow: pulling the image  [")]
    shape = r"slow: pulling the image  \[#*-*\] +\d+%  \d+\.\d of \d+\.\d MB, [012] of 2 layers\x1b\[K"
    assert bars and all(re.fullmatch(shape, line) for line in bars), shown
    shares = [int(line.partition("] ")[2].partition("%")[0]) for line in bars]
    assert shares == sorted(shares) and shares[0] < 50 and shares[-1] == 100
    left = r"slow: pulling the image[^\n]*slow is running; its output follows\r?\nslow: done"
    assert re.search(left, shown), "the bar leaves nothing behind"


def _read(terminal: int) -> str:
    """What the terminal was told; nothing at the end."""
    try:
        return os.read(terminal, 1 << 16).decode()
    except OSError:
        return ""
