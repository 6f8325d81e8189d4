"""Tasks in containers, from their submit to their end."""

from typing import Any

from dstack.api import LocalRepo, RunStatus, Task
from tests.e2e.home import Home
from tests.engines import SHELL_IMAGE


def run(home: Home, *commands: str, repo: LocalRepo | None = None, **fields: Any) -> tuple[str, RunStatus, str]:
    """What a task printed, how it ended, and why."""
    one = home.client().runs.submit(Task(commands=list(commands), **{"image": SHELL_IMAGE, **fields}), repo=repo)
    printed = b"".join(one.logs()).decode()
    one.refresh()
    return printed, one.status, one.detail or ""
