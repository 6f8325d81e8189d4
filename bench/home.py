"""A home folder of its own: the benchmark disturbs nobody's server, and nobody's configuration disturbs it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import end


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Live in an empty home folder; whoever was started in it is gone afterwards."""
    before = dict(os.environ)
    home = Path(tempfile.mkdtemp(prefix="dstack-bench-"))
    for name in [name for name in os.environ if name.startswith("DSTACK_")]:
        del os.environ[name]
    os.environ["HOME"] = str(home)
    try:
        yield home
    finally:
        server = home / ".dstack" / "server"
        if server.is_dir():
            end(server_pid(server))
            for pid in agent_pids(server):
                end(pid)
        shutil.rmtree(home)
        os.environ.clear()
        os.environ.update(before)


def server_pid(server: Path) -> int:
    """The process of the server with this data folder."""
    return int(json.loads((server / "server.json").read_bytes())["pid"])


def agent_pids(server: Path) -> list[int]:
    """The agents of the machines in the server's data folder."""
    return [int(lock.read_text()) for lock in server.glob("machines/*/agent.lock")]
