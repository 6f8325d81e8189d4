"""`python -m bench.replicas.server FOLDER NUMBER READY_FD`: the real server on PostgreSQL, with a large market."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.engine.server import AgentConnector
from bench.replicas.market import clouds
from bench.replicas.trace import Trace, WatchedDatabase
from dstack.domain.objects import Instance
from dstack.hosts.inbox import Connector
from dstack.server.app import serve
from dstack.server.parts import Outside, outside_of
from dstack.server.settings import Settings


def main(folder: Path, number: int, ready_fd: int) -> int:
    """Serve, and note in a file what took how long."""
    trace = Trace(folder / f"trace-{number}")
    trace.note("start")

    def connector_for(instance: Instance) -> Connector:
        return AgentConnector(folder, instance.id)

    def outside(settings: Settings) -> Outside:
        return replace(
            outside_of(settings),
            backends=clouds(folder),
            connector_for=connector_for,
            make_database=partial(WatchedDatabase, trace=trace),
        )

    return serve("127.0.0.1", 0, folder / "server", embedded=False, ready_fd=ready_fd, outside_of=outside)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
