"""An agent for each test, and nothing of it left afterwards."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.agent.processes import end_marked
from tests.e2e.agent.agent_client import Agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "home")
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill(signal.SIGKILL)
    for folder in (made.home / "jobs").iterdir():
        assert end_marked(folder.name)


@pytest.fixture
def python() -> str:
    """The interpreter, for jobs written in Python."""
    return sys.executable
