import subprocess
import sys

import pytest

from tests.patience import PATIENCE_S

CLOUDS = {"boto3", "botocore", "azure", "google", "kubernetes", "lightkube"}
WEB = {"fastapi", "starlette", "uvicorn"}
SQL = {"sqlalchemy", "alembic"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("dstack", {"asyncio", "pydantic", "json"}),
        ("dstack.agent.spawner", {"pydantic", "asyncssh", "httpx", "yaml", "rich"} | WEB | SQL),
        ("dstack.agent.main", {"pydantic", "asyncssh", "httpx", "yaml", "rich"} | WEB | SQL | CLOUDS),
        ("dstack.agent.sshd.server", {"pydantic", "httpx", "yaml", "rich"} | WEB | SQL | CLOUDS),
        ("dstack.spec.parse", {"httpx", "asyncssh", "rich"} | WEB | SQL | CLOUDS),
        ("dstack.testing.plugin", {"pydantic", "asyncssh", "httpx", "yaml"} | WEB | SQL | CLOUDS),
        ("dstack.server.app", {"alembic", "asyncssh", "httpx", "rich", "yaml"} | CLOUDS),
    ],
)
def test_a_process_loads_only_what_it_works_with(module: str, unwanted: set[str]) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    assert unwanted & set(asked.stdout.split()) == set()
