"""A server that nobody had to start: found again, alone, gone when idle, and handed over to one started by hand."""

import json
import os
import signal
import subprocess
import sys

from dstack.api import Run, Task
from dstack.kit.locks import is_locked
from tests.e2e.home import Home, wait_for
from tests.patience import PATIENCE_S

THE_PROGRAM = """\
from dstack.api import Client, Task
client = Client.from_config()
run = client.runs.submit(run_name="hello", configuration=Task(commands=["{command}"]))
run.attach()
for log in run.logs(): print(log.decode(), end="")   # lines arrive as they are printed
run.detach()
"""
SHORT = "type: task\nname: short\ncommands: [echo hello]\nidle_duration: 1s\n"


def submit_waiting(home: Home) -> Run:
    """A job that prints a line, waits at the gate, and prints what came through it and one line more."""
    commands = ["echo first", f"cat {home.gate()}", "echo last", "exit 6"]
    return home.client().runs.submit(run_name="waiting", configuration=Task(commands=commands))


def program(home: Home, command: str) -> "subprocess.Popen[str]":
    return home.start_program(sys.executable, "-u", "-c", THE_PROGRAM.format(command=command))


def test_the_program_of_the_readme_works_in_an_empty_home_as_it_stands(home: Home) -> None:
    assert list(home.path.iterdir()) == []
    done = program(home, "for i in 1 2 3; do echo line $i; sleep 1; done")
    assert done.communicate(timeout=PATIENCE_S) == ("line 1\nline 2\nline 3\n", "")
    assert done.returncode == 0


def test_lines_arrive_as_they_are_printed_and_the_server_outlives_who_started_it(home: Home) -> None:
    gate = home.gate()
    running = program(home, f"echo line 1; cat {gate}; echo line 3")
    assert running.stdout is not None
    assert running.stdout.readline() == "line 1\n", "the job waits, and its first line is here"
    server = home.server_pid()
    home.open_gate()
    assert running.communicate(timeout=PATIENCE_S) == ("open\nline 3\n", "")
    assert server is not None
    assert [run["status"] for run in home.runs()] == ["done"]
    assert home.server_pid() == server


def test_two_commands_at_once_start_one_server(home: Home) -> None:
    both = [home.start("ps", "--json") for _ in range(4)]
    assert [one.communicate(timeout=PATIENCE_S) for one in both] == [("[]\n", "")] * 4
    assert home.server_log().count("Serving at") == 1


def test_an_idle_server_ends_and_the_next_command_finds_everything_again(home: Home) -> None:
    home.env["DSTACK_EMBEDDED_IDLE_S"] = "0.5"
    home.write("short.yml", SHORT)
    assert home.cli("apply", "-y", "-f", "short.yml").stdout == "hello\n"
    first = home.server_pid()
    wait_for("the end of the idle server", lambda: home.server_pid() is None)
    assert home.agent_pid() is None, "its machine ended before it"
    (run,) = home.runs()
    assert (run["name"], run["status"]) == ("short", "done")
    assert home.cli("logs", "short").stdout == "hello\n"
    assert home.server_log().count("Serving at") >= 2
    assert home.server_pid() != first


def test_a_server_with_a_job_is_not_idle(home: Home) -> None:
    home.env["DSTACK_EMBEDDED_IDLE_S"] = "0.2"
    home.write("run.yml", f"type: task\nname: waiting\ncommands: [cat {home.gate()}]\nidle_duration: 1s\n")
    assert home.cli("apply", "-y", "-d", "-f", "run.yml").returncode == 0
    first = home.server_pid()
    for _ in range(3):  # each takes longer than a server without a job would stay
        assert home.cli("--version").returncode == 0
    assert home.server_pid() == first is not None
    home.open_gate()
    wait_for("the end of the idle server", lambda: home.server_pid() is None)


def test_a_server_started_by_hand_takes_over_from_the_embedded_one_and_loses_nothing(home: Home) -> None:
    run = submit_waiting(home)
    chunks = run.logs()
    seen = next(chunks)
    embedded = home.server_pid()
    by_hand = home.start("server", "--port", "0")
    assert by_hand.stdout is not None
    assert by_hand.stdout.readline().startswith("It replaced the background server (process ")
    assert by_hand.stdout.readline().startswith("The server is at http://127.0.0.1:")
    assert home.server_pid() == by_hand.pid != embedded
    home.open_gate()
    assert seen + b"".join(chunks) == b"first\nopen\nlast\n", "who followed the log goes on with the new server"
    run.refresh()
    assert (run.status, run.exit_code) == ("failed", 6)
    assert [one["id"] for one in home.runs()] == [run.id]
    assert home.server_pid() == by_hand.pid


def test_commands_wait_for_a_server_that_is_starting(home: Home) -> None:
    by_hand = home.start("server", "--port", "0")
    wait_for("the server's lock", lambda: is_locked(home.data / "server.lock"))
    by_hand.send_signal(signal.SIGSTOP)  # it takes its time
    both = [home.start("ps", "--json") for _ in range(2)]
    wait_for("a command that looks for a server", (home.data / "start.lock").exists)
    by_hand.send_signal(signal.SIGCONT)
    assert [one.communicate(timeout=PATIENCE_S) for one in both] == [("[]\n", "")] * 2
    assert home.server_pid() == by_hand.pid


def test_a_second_server_by_hand_on_the_same_data_is_refused(home: Home) -> None:
    first = home.start("server", "--port", "0")
    assert first.stdout is not None
    first.stdout.readline()
    second = home.cli("server", "--port", "0")
    assert (second.stderr, second.stdout, second.returncode) == (
        f"error: A server (process {first.pid}) already serves the data folder `{home.data}`\n"
        "hint: Use that one, or stop it first with `dstack server stop`\n",
        "",
        1,
    )
    assert home.server_pid() == first.pid
    assert home.runs() == [], "the first one still serves"


def test_a_server_whose_port_is_taken_says_so(home: Home) -> None:
    first = home.start("server", "--port", "0")
    assert first.stdout is not None
    port = first.stdout.readline().strip().rpartition(":")[2]
    second = home.cli("server", "--port", port, "--data-dir", "other")
    assert (second.stderr, second.stdout, second.returncode) == (
        f"error: The server cannot listen at `127.0.0.1:{port}`: Address already in use\n"
        "hint: Choose another address with `dstack server --host ADDRESS --port PORT`\n",
        "",
        1,
    )


def test_address_that_no_server_can_have_is_one_sentence(home: Home) -> None:
    result = home.cli("server", "--host", "192.0.2.1", "--port", "0")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "error: The server cannot listen at `192.0.2.1:0`: Cannot assign requested address\n"
        "hint: Choose another address with `dstack server --host ADDRESS --port PORT`\n"
    )


def test_a_server_ends_cleanly_while_a_log_is_followed_which_then_goes_on(home: Home) -> None:
    submit_waiting(home)
    following = home.start("logs", "waiting")
    assert following.stdout is not None
    assert following.stdout.readline() == "first\n"
    pid = home.server_pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_for("the end of the server", lambda: home.server_pid() != pid)
    home.open_gate()
    output, messages = following.communicate(timeout=PATIENCE_S)
    assert output == "open\nlast\n"
    assert all(line.startswith("waiting") for line in messages.splitlines()), "only how the run is"
    assert following.returncode == 0
    assert "Traceback" not in home.server_log()
    assert "ERROR" not in home.server_log()


def test_a_server_that_cannot_use_its_database_says_so(home: Home) -> None:
    home.write(".dstack/server/server.db", "no database at all, but long enough to be looked at")
    said = f"he database `{home.data}/server.db` cannot be used: file is not a database\n"
    hint = "hint: Check the disk and the file's permissions, or restore the file from a backup\n"
    embedded = home.cli("ps")
    assert (embedded.stderr, embedded.stdout, embedded.returncode) == (
        f"error: The embedded server did not start: T{said}{hint}",
        "",
        1,
    )
    by_hand = home.cli("server", "--port", "0")
    assert by_hand.stderr.endswith(f"error: T{said}{hint}")
    assert "Traceback" not in by_hand.stderr
    assert (by_hand.stdout, by_hand.returncode) == ("", 1)


def test_the_files_with_secrets_are_this_users_alone(home: Home) -> None:
    assert home.runs() == []
    assert home.data.stat().st_mode & 0o777 == 0o700
    assert (home.data / "server.json").stat().st_mode & 0o777 == 0o600
    token = json.loads((home.data / "server.json").read_text())["token"]
    assert token not in home.server_log()
