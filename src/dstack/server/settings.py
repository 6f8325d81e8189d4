"""Every environment variable the server reads, and where its files are."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """How one server is set up."""

    data_dir: Path
    """Database, logs, uploads, machines. `DSTACK_SERVER_DIR`; `~/.dstack/server` where unset."""
    host: str = "127.0.0.1"
    port: int = 3000
    """0 for any free one."""
    embedded: bool = False
    """Started on demand for one user; ends by itself when idle."""
    admin_token: str | None = None
    """`DSTACK_SERVER_ADMIN_TOKEN`; made at the first start where unset."""
    idle_stop_s: float = 60.0
    """How long an embedded server stays without runs, machines and requests. `DSTACK_EMBEDDED_IDLE_S`."""


def settings_from_env(*, host: str, port: int, data_dir: Path, embedded: bool) -> Settings:
    """The arguments, with what the environment adds."""
    return Settings(
        data_dir=data_dir,
        host=host,
        port=port,
        embedded=embedded,
        admin_token=os.environ.get("DSTACK_SERVER_ADMIN_TOKEN") or None,
        idle_stop_s=float(os.environ.get("DSTACK_EMBEDDED_IDLE_S", "60")),
    )
