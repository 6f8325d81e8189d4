"""An agent that does not start, as after half an upgrade: people see why, and it is tried again."""

import shutil
from pathlib import Path

import dstack
from tests.e2e.home import Home, wait_for
from tests.patience import PATIENCE_S


def test_agent_that_does_not_start_is_told_and_tried_again(home: Home) -> None:
    installed = Path(dstack.__file__).parent
    copy = home.path / "copy" / "dstack"
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "agent" / "spawner.py").write_text("def half(\n")
    home.env["PYTHONPATH"] = str(copy.parent)
    home.write("run.yml", "type: task\nname: one\ncommands: [echo hello]\n")
    applied = home.start("apply", "-f", "run.yml", "-y")
    assert applied.stderr is not None
    said = next(line for line in applied.stderr if "SyntaxError" in line)
    assert said.startswith("one: provisioning, waits for its machine: its agent does not start: SyntaxError: ")
    assert said.endswith("agent.log`)\n")
    assert "its agent does not start: SyntaxError" in home.runs()[0]["detail"]
    shutil.copy(installed / "agent" / "spawner.py", copy / "agent" / "spawner.py")
    out, _ = applied.communicate(timeout=PATIENCE_S)
    assert (applied.returncode, out) == (0, "hello\n")
    wait_for("an end of the trouble", lambda: home.runs()[0]["detail"] == "")
