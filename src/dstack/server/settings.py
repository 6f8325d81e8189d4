"""Every environment variable the server reads, and where its files are."""

import os
from dataclasses import dataclass
from pathlib import Path

from dstack.errors import ConfigurationError
from dstack.kit.environ import positive_number
from dstack.kit.vault import is_key
from dstack.logs.bounded import STREAM_BYTES_MAX

CONFIDENTIAL = (
    *("DSTACK_SERVER_ADMIN_TOKEN", "DSTACK_ENCRYPTION_KEY", "DSTACK_DATABASE_URL", "DSTACK_TOKEN"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""The variables that only a server needs. `PGPASSWORD` is read by PostgreSQL's library where it stands."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """A bucket for logs and uploads. Credentials and region come the way every AWS tool finds them."""

    bucket: str
    """`DSTACK_S3_BUCKET`."""
    prefix: str = ""
    """Before all names, with its `/`. `DSTACK_S3_PREFIX`."""
    endpoint_url: str | None = None
    """Of a storage that is not Amazon's. `DSTACK_S3_ENDPOINT_URL`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server."""

    data_dir: Path
    """Database, logs, uploads, machines. `DSTACK_SERVER_DIR`; `~/.dstack/server` where unset."""
    host: str = "127.0.0.1"
    port: int = 3000
    """0 for any free one."""
    embedded: bool = False
    """Started on demand for one user; ends by itself when idle."""
    admin_token: str | None = None
    """`DSTACK_SERVER_ADMIN_TOKEN`; made at the first start where unset."""
    database_url: str | None = None
    """A PostgreSQL database, for several servers. `DSTACK_DATABASE_URL`; a file in `data_dir` where unset."""
    s3: S3Settings | None = None
    """Where logs and uploads are kept; folders in `data_dir` where unset."""
    encryption_keys: tuple[str, ...] = ()
    """The keys for secrets and credentials; the first encrypts, all decrypt. `DSTACK_ENCRYPTION_KEY`,
    several with commas; unset, a file in `data_dir`, made when it is first needed."""
    log_bytes_max: int = STREAM_BYTES_MAX
    """How much of each job's output is kept; beyond it the oldest is dropped. `DSTACK_LOG_BYTES_MAX`; 10 GiB
    where unset."""
    local_backend: bool | None = None
    """Whether runs may use the machine of the server. `DSTACK_LOCAL_BACKEND`; where unset, only on a server without
    others beside it, and only while it has one user."""
    idle_stop_s: float = 60.0
    """How long an embedded server stays without runs, machines and requests. `DSTACK_EMBEDDED_IDLE_S`."""


def settings_from_env(*, host: str, port: int, data_dir: Path, embedded: bool) -> Settings:
    """The arguments, with what the environment adds.

    Raises:
        ConfigurationError: something is missing or not understood.
    """
    database_url = os.environ.get("DSTACK_DATABASE_URL") or None
    admin_token = os.environ.get("DSTACK_SERVER_ADMIN_TOKEN") or None
    if database_url is not None and admin_token is None:
        raise ConfigurationError(
            "DSTACK_DATABASE_URL is set, and DSTACK_SERVER_ADMIN_TOKEN is not",
            hint="All servers on one database need the same token: `export DSTACK_SERVER_ADMIN_TOKEN=...`",
        )
    if admin_token is not None and not (admin_token.isascii() and admin_token.isprintable() and " " not in admin_token):
        raise ConfigurationError(
            "DSTACK_SERVER_ADMIN_TOKEN has characters that no HTTP header may have",
            hint="Make one with `openssl rand -hex 24`",
        )
    return Settings(
        data_dir=data_dir,
        host=host,
        port=port,
        embedded=embedded,
        admin_token=admin_token,
        database_url=database_url,
        s3=_s3_settings(),
        encryption_keys=_encryption_keys(),
        log_bytes_max=_log_bytes_max(),
        local_backend=_local_backend(),
        idle_stop_s=float(os.environ.get("DSTACK_EMBEDDED_IDLE_S", "60")),
    )


def _local_backend() -> bool | None:
    said = os.environ.get("DSTACK_LOCAL_BACKEND", "")
    return None if said == "" else said != "0"


def _log_bytes_max() -> int:
    try:
        return positive_number("DSTACK_LOG_BYTES_MAX", STREAM_BYTES_MAX)
    except ValueError as error:
        raise ConfigurationError(str(error), hint="Set the maximum size of a log in bytes") from error


def _s3_settings() -> S3Settings | None:
    bucket = os.environ.get("DSTACK_S3_BUCKET")
    if not bucket:
        return None
    prefix = os.environ.get("DSTACK_S3_PREFIX", "").strip("/")
    return S3Settings(bucket, f"{prefix}/" if prefix else "", os.environ.get("DSTACK_S3_ENDPOINT_URL") or None)


def _encryption_keys() -> tuple[str, ...]:
    keys = tuple(key.strip() for key in os.environ.get("DSTACK_ENCRYPTION_KEY", "").split(",") if key.strip())
    if not all(is_key(key) for key in keys):
        raise ConfigurationError(
            "DSTACK_ENCRYPTION_KEY is not a key: expected 32 random bytes as URL-safe base64",
            hint="Make one with `openssl rand -base64 32 | tr +/ -_`",
        )
    return keys
