"""A real PostgreSQL server for tests, from whatever the machine has installed."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from tests.machine import missing
from tests.patience import PATIENCE_S

# A test's database need not survive a power cut.
_FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200"


class PostgresServer:
    """Listens on a unix socket in its own folder. As root it runs as the user `postgres`: it refuses to be root."""

    def __init__(self) -> None:
        self._bin = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._numbers = itertools.count(1)
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def start(self) -> None:
        """Make a cluster, and serve it."""
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "dstack", "--auth=trust", "--no-sync", "-E", "UTF8")
        self._control("start", "-o", f"{_FAST} -c listen_addresses= -c unix_socket_directories={self._folder}")

    def stop(self) -> None:
        """End it, and all that it kept."""
        self._control("stop", "-m", "immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        """Break every connection."""
        self._control("restart", "-m", "fast")

    def url(self, name: str) -> str:
        """Where a database is, as DSTACK_DATABASE_URL says it."""
        return f"postgresql://dstack@/{name}?host={self._folder}"

    def create(self) -> str:
        """A new database."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, name: str) -> None:
        """Whoever still uses it is hung up on."""
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute(statement)

    def _control(self, *args: str) -> None:
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-s", "-l", log, *args)

    def _run(self, program: str, *args: str) -> None:
        subprocess.run(
            [*self._as_user, str(self._bin / program), *args],
            check=True,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},  # nothing of the test that happens to be the first
        )


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if (on_path := shutil.which("initdb")) is not None:
        found.append(Path(on_path))
    if not found:
        missing("PostgreSQL is not installed: `apt-get install postgresql`")
    return found[-1].parent
