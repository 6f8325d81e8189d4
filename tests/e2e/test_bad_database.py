"""A database that is full, newer, or away: one clear message, correct work afterwards, never damage."""

import resource
import sqlite3

from dstack.store.tables import HEAD
from tests.e2e.home import Home, wait_for

TASK = "type: task\ncommands: [echo {}]\n"


def test_a_full_disk_is_one_clear_message_and_everything_goes_on_when_there_is_room_again(home: Home) -> None:
    home.write("first.dstack.yml", TASK.format("first"))
    home.write("later.dstack.yml", TASK.format("later"))
    assert home.cli("apply", "-f", "first.dstack.yml", "-n", "first", "-y").returncode == 0
    server = home.server_pid()
    assert server is not None
    # No file of the server's may grow any more: for the database that is a full disk.
    unlimited = resource.prlimit(server, resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (1, unlimited[1]))
    refused = home.cli("apply", "-f", "later.dstack.yml", "-n", "later", "-y")
    assert refused.returncode == 1
    assert "The server's database cannot be written now" in refused.stderr
    assert "hint: Check the disk" in refused.stderr and "Traceback" not in refused.stderr
    assert home.cli("logs", "first").stdout == "first\n", "what can be read is read"
    resource.prlimit(server, resource.RLIMIT_FSIZE, unlimited)
    done = home.cli("apply", "-f", "later.dstack.yml", "-n", "later", "-y")
    assert (done.returncode, home.server_pid()) == (0, server), done.stderr
    assert home.cli("logs", "later").stdout == "later\n"
    assert {run["name"]: run["status"] for run in home.runs()} == {"first": "done", "later": "done"}


def test_a_database_of_a_newer_dstack_is_left_as_it_is(home: Home) -> None:
    home.write("first.dstack.yml", TASK.format("first"))
    assert home.cli("apply", "-f", "first.dstack.yml", "-n", "first", "-y").returncode == 0
    home.kill_server()
    path = home.data / "server.db"
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    conn.close()
    for _ in range(2):
        result = home.cli("ps")
        assert result.returncode == 1
        assert "The database is of version 9999, and this dstack knows versions up to" in result.stderr
        assert "hint: Use the newer dstack that wrote it" in result.stderr
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE alembic_version SET version_num = ?", [HEAD])
    conn.close()
    wait_for("no server", lambda: home.server_pid() is None)
    assert [run["name"] for run in home.runs()] == ["first"]
