"""The command line as scripts use it: exit codes, what is on stdout, and JSON."""

import json
import signal

import pytest

from tests.e2e.home import Home
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.server("shared")


def apply(home: Home, script: str, *args: str) -> "tuple[str, int]":
    """Apply a task with the script; returns stdout and exit code."""
    home.write("run.yml", f"type: task\nname: one\ncommands:\n  - |\n    {script}\n")
    result = home.cli("apply", "-y", "-f", "run.yml", *args)
    assert "Traceback" not in result.stderr
    return result.stdout, result.returncode


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("true", 0),
        ("exit 3", 3),
        ("false", 1),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("no-such-program", 127),
    ],
)
def test_apply_exits_as_the_job_did(home: Home, script: str, code: int) -> None:
    assert apply(home, f"echo begin; {script}")[1] == code
    (run,) = home.runs()
    assert run["jobs"][0]["exit_code"] == code


def test_stdout_is_the_jobs_output_and_nothing_else(home: Home) -> None:
    assert apply(home, "echo out; echo err >&2") == ("out\nerr\n", 0)
    assert home.cli("logs", "one").stdout == "out\nerr\n"


def test_a_job_that_is_stopped_gives_no_success(home: Home) -> None:
    home.write("run.yml", f"type: task\nname: one\ncommands: ['echo ready; cat {home.gate()}']\n")
    applied = home.start("apply", "-y", "-f", "run.yml")
    assert applied.stdout is not None
    assert applied.stdout.readline() == "ready\n"
    stopped = home.cli("stop", "-y", "one")
    assert (stopped.stderr, stopped.returncode) == ("one: stopping\n", 0)
    _, said = applied.communicate(timeout=PATIENCE_S)
    assert said.endswith("one: terminated (stopped by user)\n")
    assert applied.returncode not in (0, 2)
    ended = home.cli("stop", "one")
    assert (ended.stderr, ended.returncode) == ("one: already terminated\n", 0), "nothing is left to ask about"


def test_what_cannot_be_deleted_yet_is_refused_before_anything_is_asked(home: Home) -> None:
    apply(home, "true")
    home.write("run.yml", f"type: task\nname: two\ncommands: ['cat {home.gate()}']\n")
    assert home.cli("apply", "-y", "-d", "-f", "run.yml").returncode == 0
    refused = home.cli("delete", "one", "two")
    assert (refused.stderr.splitlines()[1], refused.returncode) == ("hint: Stop it first with `dstack stop two`", 1)
    assert [run["name"] for run in home.runs()] == ["two", "one"]


def test_ctrl_c_without_a_terminal_stops_the_run_and_exits_with_130(home: Home) -> None:
    home.write("run.yml", f"type: task\nname: one\ncommands: ['echo ready; cat {home.gate()}']\n")
    applied = home.start("apply", "-y", "-f", "run.yml")
    assert applied.stdout is not None
    assert applied.stdout.readline() == "ready\n"
    applied.send_signal(signal.SIGINT)
    _, said = applied.communicate(timeout=PATIENCE_S)
    assert said.endswith("one: stopping\n")
    assert "Traceback" not in said
    assert applied.returncode == 130
    run = home.client().runs.get("one")
    assert run is not None
    for _ in run.changes():
        pass
    assert (run.status, run.reason) == ("terminated", "stopped_by_user")


@pytest.mark.parametrize("command", [("logs", "one"), ("attach", "one")])
def test_ctrl_c_of_who_only_looks_leaves_the_run_alone(home: Home, command: tuple[str, str]) -> None:
    home.write("run.yml", f"type: task\nname: one\ncommands: ['echo ready; cat {home.gate()}']\n")
    assert home.cli("apply", "-y", "-d", "-f", "run.yml").returncode == 0
    looking = home.start(*command)
    stream = looking.stdout if command[0] == "logs" else looking.stderr
    assert stream is not None
    while "ready" not in (line := stream.readline()) and "Attached" not in line:
        assert line
    looking.send_signal(signal.SIGINT)
    _, said = looking.communicate(timeout=PATIENCE_S)
    assert (looking.returncode, "Traceback" in said) == (130, False)
    assert [run["status"] for run in home.runs()] == ["running"]


def test_apply_with_json_shows_the_run_as_it_ended_and_not_its_log(home: Home) -> None:
    text, code = apply(home, "echo hello; exit 4", "--json")
    run = json.loads(text)
    assert (run["name"], run["status"], run["reason"], code) == ("one", "failed", "container_exited_with_error", 4)
    detached, code = apply(home, "true", "--json", "-d", "-n", "two")
    assert (json.loads(detached)["name"], code) == ("two", 0)


def test_each_json_output_parses_and_says_the_same(home: Home) -> None:
    apply(home, "echo hello")
    (run,) = home.runs()
    assert (run["name"], run["status"], run["project"], run["user"]) == ("one", "done", home.project, "admin")
    events = [json.loads(line) for line in home.cli("event", "--json", "--run", "one").stdout.splitlines()]
    assert [event["run_id"] for event in events] == [run["id"]] * len(events)
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    assert {"submitted", "provisioning", "running", "done"} <= {event["status"] for event in events}
    (stopped,) = json.loads(home.cli("stop", "-y", "--json", "one").stdout)
    assert stopped["id"] == run["id"]


def test_a_deleted_run_is_gone_with_its_log(home: Home) -> None:
    apply(home, "echo hello")
    log = home.data / "logs" / home.runs()[0]["jobs"][0]["id"] / "job.log"
    assert log.exists()
    deleted = home.cli("delete", "-y", "one")
    assert (deleted.stderr, deleted.returncode) == ("one: deleted\n", 0)
    assert home.runs() == []
    assert home.cli("logs", "one").returncode == 1
    assert not log.exists()


def test_a_pipe_that_is_closed_ends_the_command_quietly(home: Home) -> None:
    apply(home, "for i in $(seq 100000); do echo line $i of many; done", "-d")
    shown = home.start_program("sh", "-c", f"{' '.join(home.command('logs', 'one'))} | head -n 1")
    assert shown.communicate(timeout=PATIENCE_S) == ("line 1 of many\n", "")


@pytest.mark.parametrize("command", [("logs", "train-a"), ("event", "--run", "train-a"), ("delete", "train-a")])
def test_a_mistyped_run_is_answered_with_the_nearest(home: Home, command: tuple[str, ...]) -> None:
    missing = f"There is no run `train-a` in the project `{home.project}`"
    assert home.cli(*command).stderr.startswith(f"error: {missing}\n")
    home.write("run.yml", "type: task\nname: train-1\ncommands: ['true']\n")
    assert home.cli("apply", "-y", "-f", "run.yml").returncode == 0
    asked = home.cli(*command)
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"error: {missing}; did you mean `train-1`?\n")
