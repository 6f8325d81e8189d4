"""Control of a data folder's server from another process: find it, stop it, restart it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dstack.api._embedded import COMMAND, EmbeddedServer
from dstack.api._servers import Address, FixedServer
from dstack.api._transport import Transport
from dstack.errors import ConfigurationError, DstackError, ServerUnreachableError
from dstack.kit import systems
from dstack.kit.locks import is_locked
from dstack.protocol import routes
from dstack.protocol.accounts import ProjectList
from dstack.protocol.views import RunPage, RunView

ASK_TIMEOUT_S = 5.0
END_TIMEOUT_S = 60.0
RUNS_PER_PAGE = 100


@dataclass(frozen=True, slots=True)
class Running:
    """A running server."""

    pid: int
    data_dir: Path
    embedded: bool
    """Whether a command that needed it started it in the background."""
    url: str | None
    """The server's URL; None while it starts."""
    version: str | None
    since: datetime | None
    active_runs: int | None
    """The number of unfinished runs; None if the server does not answer."""
    active_jobs: int | None

    @property
    def leaves_idle_agent(self) -> bool:
        """Whether an agent without jobs stays on this machine when the server has ended."""
        agents = (self.data_dir / "machines").glob("*/agent.lock")  # `Home.lock` of an agent
        return self.active_jobs == 0 and any(map(is_locked, agents))


def find(data_dir: Path) -> Running | None:
    """Return the server of a data folder; None if none runs. Takes up to 5 seconds if the server does not answer."""
    holder, about = _read(data_dir / "server.lock"), _read(data_dir / "server.json")
    pid = holder.get("pid")
    if not is_locked(data_dir / "server.lock") or not isinstance(pid, int):
        return None
    if about.get("pid") != pid:  # the file is the previous server's
        return Running(pid, data_dir, bool(holder.get("embedded")), None, None, None, None, None)
    runs = _active_runs(str(about["url"]), str(about["token"]))
    jobs = None if runs is None else sum(not job.status.is_finished() for run in runs for job in run.jobs)
    return Running(
        pid=pid,
        data_dir=data_dir,
        embedded=bool(about.get("embedded")),
        url=str(about["url"]),
        version=str(about.get("version")),
        since=datetime.fromtimestamp((data_dir / "server.json").stat().st_mtime, UTC),
        active_runs=None if runs is None else len(runs),
        active_jobs=jobs,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _active_runs(url: str, token: str) -> list[RunView] | None:
    transport = Transport(FixedServer(Address(url, token)), tries=1, reply_timeout_s=ASK_TIMEOUT_S)
    try:
        projects: ProjectList = transport.call(routes.LIST_PROJECTS)
        return [run for project in projects.projects for run in _runs_of(transport, project.name)]
    except DstackError:
        return None
    finally:
        transport.close()


def _runs_of(transport: Transport, project: str) -> Iterator[RunView]:
    """Yield the unfinished runs of a project."""
    before = None
    while True:
        query = {"limit": RUNS_PER_PAGE, "before": before}
        page: RunPage = transport.call(routes.LIST_RUNS, query=query, project=project)
        yield from (run for run in page.runs if not run.status.is_finished())
        before = page.next
        if before is None:
            return


def stop(running: Running) -> None:
    """Shut a server down, and wait until it has ended. Its jobs keep running.

    Raises:
        ConfigurationError: the server belongs to another user, or does not end within a minute.
    """
    try:
        has_ended = systems.end(running.pid, END_TIMEOUT_S)
    except PermissionError:
        raise ConfigurationError(
            f"The server (process {running.pid}) is another user's", hint="Stop it as that user"
        ) from None
    if not has_ended:
        raise ConfigurationError(
            f"The server (process {running.pid}) did not end within {END_TIMEOUT_S:g} s",
            hint=f"End it with `kill -9 {running.pid}`; its jobs go on",
        )


def restart(running: Running) -> None:
    """Stop an embedded server and start it again, at the same port if that is still free.

    Raises:
        ConfigurationError: the server was started by hand and is left running; or it does not end.
        ServerUnreachableError: the server does not start again.
    """
    if not running.embedded:
        raise ConfigurationError(
            f"The server (process {running.pid}) was started by hand, so it can only be started again there",
            hint="`dstack server stop`, and start it as before; its jobs go on meanwhile",
        )
    stop(running)
    port = (running.url or "").rpartition(":")[2]
    try:
        EmbeddedServer(running.data_dir, (*COMMAND, "--port", port or "0")).find()
    except ServerUnreachableError:
        if not port:
            raise
        EmbeddedServer(running.data_dir).find()
