"""`dstack exec`: a command inside a running job, into a process and into a container, as scripts and people use it."""

import hashlib
import os
import pty
import re
import signal
import subprocess

import pytest

from dstack.api import Task
from tests.e2e.home import Home, wait_for
from tests.engines import BARE_IMAGE, SHELL_IMAGE
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.server("shared")

KINDS = ["process", pytest.param("container", marks=pytest.mark.server(engine="engine"))]
HOST = "box"


@pytest.fixture(params=KINDS)
def job(request: pytest.FixtureRequest, home: Home) -> Home:
    """A home with a running job of each kind, to which nobody is attached."""
    task = {"commands": ["echo up; while :; do sleep 1; done"]}
    if request.param == "container":
        task = {"image": SHELL_IMAGE, **task}
    run = home.client().runs.submit(Task.model_validate(task), run_name=HOST)
    assert next(run.logs()) == b"up\n"
    return home


def ran(home: Home, *words: str, input: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    """`dstack exec box -- WORDS…` to its end."""
    given = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    command = home.command("exec", HOST, "--", *words)
    return subprocess.run(command, env=home.env, cwd=home.path, capture_output=True, timeout=PATIENCE_S, **given)  # type: ignore[call-overload, no-any-return]


def test_words_arrive_as_they_are_outputs_stay_apart_and_the_exit_code_is_ours(job: Home) -> None:
    words = ["two  words", "$HOME", "it's", 'a"b', "*", "", "\\n", "ü"]
    assert ran(job, "printf", "<%s>", *words).stdout.decode() == "".join(f"<{word}>" for word in words)
    done = ran(job, "sh", "-c", "echo out; echo $DSTACK_RUN_NAME >&2; exit 9")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", f"{HOST}\n".encode(), 9)
    missing = ran(job, "no-such-program", "-x")
    assert missing.returncode == 127 and b"not found" in missing.stderr
    assert ran(job, "sh", "-c", "kill -9 $$").returncode == 137
    assert not (job.path / ".dstack/ssh/config").exists(), "nothing is left behind"


def test_input_and_output_are_any_bytes_and_their_ends_are_seen(job: Home) -> None:
    data = os.urandom(20_000_000)
    digest = hashlib.sha256(data).hexdigest()
    assert ran(job, "sha256sum", input=data).stdout.decode().split()[0] == digest
    assert hashlib.sha256(ran(job, "cat", input=data).stdout).hexdigest() == digest
    assert ran(job, "head", "-c", "3", input=data).stdout == data[:3], "it need not read all"
    assert ran(job, "cat").stdout == b"", "and there may be no input at all"


def test_who_reads_slowly_gets_all_and_who_stops_reading_ends_the_command(job: Home) -> None:
    reader = job.start_program("sh", "-c", '"$@" | { read first; sleep 1; wc -c; }', "sh", *dd(job))
    assert int(reader.communicate(timeout=PATIENCE_S)[0]) > 30_000_000 - 200
    command = job.command("exec", HOST, "--", "sh", "-c", "echo $$; exec yes")
    with subprocess.Popen(command, env=job.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as endless:
        assert endless.stdout is not None and endless.stderr is not None
        pid = endless.stdout.readline().decode().strip()
        endless.stdout.close()
        assert (endless.stderr.read(), endless.wait(PATIENCE_S)) == (b"", 141)
    wait_for("the end of the command", lambda: ran(job, "kill", "-0", pid).returncode != 0)


def dd(home: Home) -> list[str]:
    return home.command("exec", HOST, "--", "sh", "-c", "echo; dd if=/dev/zero bs=1000000 count=30 2>/dev/null")


TRAP = "trap 'echo interrupted; exit 5' INT; echo up; while :; do sleep 0.1; done"
DEAF = "trap 'echo no' INT; echo up; while :; do sleep 0.1; done"


def started(home: Home, script: str) -> "subprocess.Popen[bytes]":
    command = home.command("exec", HOST, "--", "sh", "-c", script)
    process = subprocess.Popen(command, env=home.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    return process


def test_signals_reach_the_command_and_a_second_ctrl_c_leaves_it(job: Home) -> None:
    polite = started(job, TRAP)
    polite.send_signal(signal.SIGINT)
    assert (polite.communicate(timeout=PATIENCE_S)[0], polite.returncode) == (b"interrupted\n", 5)
    ended = started(job, "echo up; exec sleep 600")
    ended.send_signal(signal.SIGTERM)
    assert (ended.communicate(timeout=PATIENCE_S)[0], ended.returncode) == (b"", 143)
    deaf = started(job, DEAF)
    deaf.send_signal(signal.SIGINT)
    assert deaf.stdout is not None and deaf.stdout.readline() == b"no\n"
    deaf.send_signal(signal.SIGINT)
    assert (deaf.communicate(timeout=PATIENCE_S)[0], deaf.returncode) == (b"", 130)


def test_on_a_terminal_the_command_has_it(job: Home) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        job.command("exec", HOST, "--", "sh"), env={**job.env, "TERM": "xterm"}, stdin=theirs, stdout=theirs
    )
    seen = b""

    def until(pattern: bytes) -> None:
        nonlocal seen
        while not re.search(pattern, seen):
            seen += os.read(ours, 4096)

    os.write(ours, b"test -t 0 && test -t 1 && echo is-a-$TERM\n")
    until(rb"is-a-xterm")
    # No long sleep: a shell that is interrupted just before it starts one sees its trap only afterwards.
    script = "trap 'echo inter''rupted; exit' INT; echo rea''dy; while :; do sleep 0.1; done"
    os.write(ours, f'sh -c "{script}"; exit 4\n'.encode())
    until(rb"ready")
    os.write(ours, b"\x03")
    until(rb"interrupted")
    assert process.wait(PATIENCE_S) == 4
    os.close(ours)
    os.close(theirs)


def test_what_cannot_be_done_is_told(job: Home) -> None:
    nothing = job.cli("exec", HOST)
    assert nothing.returncode == 2
    assert f"name a command after `--`, such as `dstack exec {HOST} -- bash`; for a longer session" in nothing.stderr
    unknown = job.cli("exec", "nobody", "--", "ls")
    assert (unknown.returncode, unknown.stderr.splitlines()[0]) == (
        1,
        f"error: There is no run `nobody` in the project `{job.project}`",
    )
    node = job.cli("exec", HOST, "--job", "3", "--", "ls")
    assert (node.returncode, node.stderr) == (1, f"error: The run `{HOST}` has no job 3; it has only job 0\n")
    attached = job.cli("attach", HOST, "--job", "3")
    assert (attached.returncode, attached.stderr) == (1, f"error: The run `{HOST}` has no job 3; it has only job 0\n")
    assert job.cli("stop", "-x", "-y", HOST).returncode == 0
    run = job.client().runs.get(HOST)
    assert run is not None
    for _ in run.changes():
        pass
    over = job.cli("exec", HOST, "--", "ls")
    assert (over.returncode, over.stderr) == (
        1,
        f"error: The job of `{HOST}` is aborted: no command can be run in it\n",
    )


def test_a_job_that_ends_ends_the_command(job: Home) -> None:
    process = started(job, "echo up; sleep 600")
    run = job.client().runs.get(HOST)
    assert run is not None
    run.stop(abort=True)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0


@pytest.mark.server(engine="engine")
def test_an_image_without_shell_runs_programs_with_their_words(home: Home) -> None:
    run = home.client().runs.submit(Task(image=BARE_IMAGE, entrypoint="/busybox sleep 600"), run_name=HOST)
    assert run.attach()
    assert ran(home, "/busybox", "printf", "<%s>", "two  words", "it's").stdout == b"<two  words><it's>"
    missing = ran(home, "/no-such-program")
    assert missing.returncode in (126, 127) and b"/no-such-program" in missing.stdout + missing.stderr
