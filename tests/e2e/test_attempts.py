"""A job that fails at once and is tried again: every attempt is seen, by whoever follows it."""

import pytest

from dstack.api import Task
from tests.e2e.home import Home

pytestmark = pytest.mark.server("shared")


def test_every_attempt_of_a_job_that_fails_at_once_is_shown(home: Home) -> None:
    home.write("f.yml", "{type: task, name: fails, commands: [echo once, exit 3], retry: {duration: 8s}}")
    applied = home.start("apply", "-y", "-f", "f.yml")
    api_run = home.client().runs.submit(
        Task(commands=["echo once", "exit 4"], retry={"duration": "8s"}), run_name="program"
    )
    api_run.attach()  # returns, whether it has seen the job run or only its end
    attached = home.start("attach", "--logs", "program")
    for process, name, code in ((applied, "fails", 3), (attached, "program", 4)):
        output, messages = process.communicate()
        assert (process.returncode, output) == (code, "once\nonce\n")
        assert f"{name}: attempt 1 failed (exit code {code})" in messages
        assert messages.endswith(f"{name}: failed (exit code {code})\n")
    logs = home.cli("logs", "program")
    lines = "".join(f"program: attempt {number} failed (exit code 4)\n" for number in (1, 2))
    assert (logs.stdout, logs.stderr) == ("once\nonce\n", lines)
