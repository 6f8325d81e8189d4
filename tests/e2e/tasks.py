"""Tasks in containers, from their submit to their end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dstack.api import LocalRepo, Run, RunStatus, Task
from tests.e2e.home import Home, wait_for
from tests.engines import SHELL_IMAGE, DockerEngine
from tests.podman import PodmanEngine


@contextmanager
def on_engine(home: Home, engine: DockerEngine | PodmanEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The home on a machine with this engine; no container is left behind."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    home.env["DOCKER_HOST"] = engine.host
    yield home
    wait_for("the end of all containers", lambda: engine.containers() == [])


def run(home: Home, *commands: str, repo: LocalRepo | None = None, **fields: Any) -> tuple[str, RunStatus, str]:
    """What a task printed, how it ended, and why."""
    one = home.client().runs.submit(Task(commands=list(commands), **{"image": SHELL_IMAGE, **fields}), repo=repo)
    printed = b"".join(one.logs()).decode()
    one.refresh()
    return printed, one.status, one.detail or ""


def refreshed(run: Run) -> Run:
    """The run, as the server knows it now."""
    run.refresh()
    return run
