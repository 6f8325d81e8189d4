"""The answers of every view about the runs of a database, as JSON values."""

import json
from typing import Any

import msgspec

from dstack.operations import audit, history, measuring, repos, runs, secrets
from dstack.operations.context import Context
from dstack.protocol.wire import encoded
from dstack.store.users import User

PROJECT = "main"
STREAMS = ("job", "agent")


async def answers_of(context: Context, user: User) -> dict[str, Any]:
    """Ask for the runs, each run with its events, logs and metrics, the secrets, the repos and the audit."""
    page = await runs.list_page(context, user, PROJECT, finished_too=True, limit=100, before=None)
    told = await secrets.list_all(context, user, PROJECT)
    values = [await secrets.get(context, user, PROJECT, secret.name) for secret in told.secrets]
    return {
        "runs": _plain(page),
        "run": {run.name: await _of_run(context, user, run.name) for run in page.runs},
        "secrets": _plain(told),
        "values": [_plain(secret) for secret in values],
        "repos": _plain(await repos.list_all(context, user, PROJECT)),
        "audit": _plain(await audit.audit(context, user)),
    }


async def _of_run(context: Context, user: User, name: str) -> dict[str, Any]:
    view = await runs.get(context, user, PROJECT, name)
    events = await history.list_events(context, user, PROJECT, run=name, after=0, limit=1000)
    jobs = {f"{job.replica}/{job.node}": await _of_job(context, user, name, job.replica, job.node) for job in view.jobs}
    return {"view": _plain(view), "events": _plain(events), "jobs": jobs}


async def _of_job(context: Context, user: User, name: str, replica: int, node: int) -> dict[str, Any]:
    points = await measuring.read_metrics(context, user, PROJECT, name, replica=replica, node=node, start=None)
    logs = {}
    for stream in STREAMS:
        query = history.LogQuery(name, replica, node, stream, 0, None)
        cursor = await history.open_log(context, user, PROJECT, query)
        parts = [part.data async for part in history.read_log(context, cursor, follow=False)]
        logs[stream] = b"".join(parts).decode()
    return {"metrics": _plain(points), "logs": logs}


def _plain(view: msgspec.Struct) -> Any:
    return json.loads(encoded(view))  # type: ignore[arg-type]
