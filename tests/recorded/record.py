"""Records a server's database, its logs, its answers and its hosts: what a later version has to take over.

`python -m tests.recorded.record` writes a folder named after today's schema. A folder stays as it was recorded; a
later schema gets a folder of its own.
"""

import base64
import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from dstack.kit.plain import to_plain
from dstack.operations import repos, secrets
from dstack.operations.context import Context
from dstack.protocol.agent import GpuPoint, Point, to_json
from dstack.protocol.requests import InitRepo
from dstack.store import metrics
from dstack.store.tables import HEAD
from dstack.store.tx import Tx
from dstack.store.users import User
from dstack.testing.cluster import Cluster, ClusterRun
from dstack.testing.time import START
from tests.recorded.answers import PROJECT, answers_of

FOLDER = Path(__file__).parent

LONG: dict[str, Any] = {"takes_s": 7200.0, "prints": "works\n"}
"""The work of a job that still runs when the database is recorded."""


def live(cluster: Cluster) -> None:
    """Let runs of every kind end, run, retry, wait for their time and wait in the queue."""
    cluster.ask(lambda context, user: secrets.set_value(context, user, PROJECT, "password", "hunter2"))
    repo = InitRepo(kind="remote", url="https://git.example/ada/work", token="a-token")
    cluster.ask(lambda context, user: repos.init(context, user, PROJECT, "ada-work", repo))

    def submit(name: str, more: str = "", **behaviour: Any) -> ClusterRun:
        cluster.when(name, **behaviour)
        return cluster.submit(f"type: task\ncommands: [work]\nidle_duration: 1h\n{more}", name=name)

    submit("done", exits=[0], prints="hello\n").wait()
    submit("failed", exits=[3], prints="alas\n").wait()
    submit("repaired", "retry: true", exits=[1, 0], prints="once more\n").wait("done")
    submit("running", "env: {WORD: '${{ secrets.password }}'}\nresources: {cpu: 1, memory: 1GB}", **LONG).wait(
        "running"
    )
    submit("gang", "nodes: 2\nbackends: [aws]\nstop_duration: 30s", **LONG).wait("running")
    submit("stopped", "resources: {cpu: 1, memory: 1GB}", **LONG).wait("running")
    stopped = submit("ended", "resources: {cpu: 1, memory: 1GB}", **LONG)
    stopped.wait("running")
    stopped.stop()
    stopped.wait()
    cluster.when("editor", **LONG)
    cluster.submit("type: dev-environment\nide: vscode\nresources: {cpu: 1, memory: 1GB}", name="editor").wait(
        "running"
    )
    cluster.when("web", **LONG)
    service = "type: service\nport: 8000\ncommands: [serve]\nauth: false\nreplicas: 2\nbackends: [aws]"
    cluster.submit(service, name="web").wait("running")
    submit("scheduled", "schedule: {cron: '0 12 * * *'}")
    submit("queued", "backends: [local]\nresources: {cpu: 4}\npriority: 7", **LONG)
    submit("retrying", "retry: {on_events: [error], duration: 1d}\nbackends: [aws]", exits=[1]).wait("pending")
    cluster.ask(lambda context, user: context.db.write(_measure))


def _measure(tx: Tx) -> None:
    ids = [row.id for row in tx.select(text("SELECT id FROM jobs WHERE status = 'running' ORDER BY id"))]
    at = START.timestamp() + 60
    points = [Point(at + 10 * number, 0.5, 100.0 + number, (GpuPoint(50.0, 8.0),)) for number in range(5)]
    metrics.add(tx, {id: points for id in ids}, {})


def dump(path: Path) -> Iterator[str]:
    """Yield a database as SQL, without the notes that the simulation's own triggers take."""
    with sqlite3.connect(path) as conn:
        triggers = conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            conn.execute(f"DROP TRIGGER {name}")
        conn.execute("DROP TABLE notes")
        conn.commit()
        yield from conn.iterdump()
    conn.close()


def hosts_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Return every machine with its jobs, as its agent knows them."""
    return [
        {
            "cloud": cloud.name,
            "key": host.key,
            "offer": to_plain(host.offer),
            "jobs": [
                {"order": to_json(job.order), "report": to_json(job.report), "log": job.log.decode()}
                for job in host.jobs.values()
            ],
        }
        for cloud in cluster.world.clouds.values()
        for host in cloud.hosts.values()
    ]


def record(folder: Path) -> None:
    """Write a folder with all that there is to take over."""
    folder.mkdir(exist_ok=True)
    with Cluster(["local", "aws"]) as cluster:
        live(cluster)
        answers = cluster.ask(answers_of)
        hosts = hosts_of(cluster)
        now = cluster.ask(_now)
        cluster.back_up(folder / "server.db")
        logs = cluster.world.folder / "logs"
        files = {
            path.relative_to(logs).as_posix(): base64.b64encode(path.read_bytes()).decode()
            for path in sorted(logs.rglob("*"))
            if path.is_file()
        }
    (folder / "database.sql").write_text("\n".join(dump(folder / "server.db")) + "\n")
    (folder / "server.db").unlink()
    _write(folder / "answers.json", answers)
    _write(folder / "outside.json", {"now": now, "hosts": hosts, "logs": files})


async def _now(context: Context, _: User) -> str:
    now: datetime = await context.db.read(lambda tx: tx.clock.now())
    return now.isoformat()


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record(FOLDER / f"schema_{HEAD}")
