"""What is secret stays with those who need it: on disk, in environments, and in what an agent remembers of a job."""

import os
from pathlib import Path

import pytest

from dstack.api import Task
from dstack.testing.world import TEST_KEY
from tests.e2e.home import Home


def test_nobody_else_may_look_at_what_client_server_agent_and_job_write_under_any_umask(home: Home) -> None:
    before = os.umask(0)
    try:
        run = home.client().runs.submit(run_name="one", configuration=Task(commands=["umask", "sleep 60"]))
        printed = next(iter(run.logs()))
    finally:
        os.umask(before)
    dstack = home.path / ".dstack"
    jobs_own = {path for machine in home.machines() for path in machine.jobs.glob("*/files")}
    folders = [path for path in (dstack, *dstack.rglob("*")) if path.is_dir()]
    opened = {path for path in folders if path.stat().st_mode & 0o077}
    assert opened <= jobs_own and dstack.stat().st_mode & 0o777 == 0o700
    loose = [path for path in dstack.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert not loose
    assert printed.strip() == b"0022", "a job's own umask is not ours"
    run.stop(abort=True)


def test_what_only_the_server_needs_is_in_nobodys_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "DSTACK_SERVER_ADMIN_TOKEN": "the-admins-own",
        "DSTACK_ENCRYPTION_KEY": TEST_KEY,
        "AWS_SECRET_ACCESS_KEY": "the-key-of-the-bucket",
        "PGPASSWORD": "the-databases",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    run = home.client().runs.submit(run_name="one", configuration=Task(commands=["env", "sleep 60"]))
    printed = next(iter(run.logs()))
    session = home.cli("exec", "one", "env").stdout
    assert b"DSTACK_RUN_NAME=one" in printed and "DSTACK_RUN_NAME=one" in session
    server = home.server_pid()
    assert server is not None
    seen = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in home.processes()}
    assert len(seen) >= 6, "server, agent, spawner, supervisor, SSH server, job"
    for name, value in secrets.items():
        shown = [pid for pid, block in seen.items() if value.encode() in block]
        assert shown == ([server] if name == "PGPASSWORD" else [])
        assert value.encode() not in printed and value not in session
    run.stop(abort=True)
