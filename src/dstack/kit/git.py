"""Runs of `git` that never ask, end in time, and use only the given credentials."""

import base64
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

STALL_S = 60
"""How long a transfer may stand still."""
CONNECT_S = 20
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

_SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"),
    *(
        "-o",
        f"ConnectTimeout={CONNECT_S}",
        "-o",
        "ServerAliveInterval=15",
        "-o",
        f"ServerAliveCountMax={STALL_S // 15}",
    ),
)


def git_environment(
    environ: Mapping[str, str], folder: Path, url: str, private_key: str | None, token: str | None
) -> dict[str, str]:
    """The environment for a `git` that talks to one remote.

    Args:
        environ: the variables to begin with; those named `GIT_*` are left out.
        folder: a private folder, for the key and the keys of hosts.
        url: of the remote. The token is sent to its host alone.
        private_key: in OpenSSH's format, without a passphrase.
        token: sent as the password of HTTP's basic authentication.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    settings = [("core.hooksPath", os.devnull), ("core.fsmonitor", "false"), ("http.lowSpeedLimit", "1")]
    settings += [("http.lowSpeedTime", str(STALL_S)), ("protocol.ext.allow", "never"), ("credential.helper", "")]
    settings += [(f"url.{there}.insteadOf", other) for there, other in _same_host(url)]
    ssh = list(_SSH)
    if private_key is not None:
        ssh += [
            "-i",
            str(_written(folder / "key", private_key)),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "IdentityAgent=none",
        ]
    if token is not None:
        secret = base64.b64encode(f"oauth2:{token}".encode()).decode()
        settings.append((f"http.{_origin(url)}.extraHeader", f"Authorization: Basic {secret}"))
    numbered = {
        f"GIT_CONFIG_{kind}_{number}": text
        for number, pair in enumerate(settings)
        for kind, text in zip(("KEY", "VALUE"), pair, strict=True)
    }
    return {
        **kept,
        **numbered,
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": shlex.join(ssh),
        "LC_ALL": "C.UTF-8",
    }


def is_lfs_pointer(file: Path) -> bool:
    """Return whether a regular file is what Git LFS leaves in place of one that it has not fetched. Blocks.

    The form: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
    """
    with file.open("rb") as start:
        return start.read(len(_LFS_POINTER)) == _LFS_POINTER


def is_remote(url: str) -> bool:
    """Whether a URL leads to another machine: `https://…`, `ssh://…`, `user@host:path`."""
    if "://" in url:
        try:
            parts = urlsplit(url)
            has_place = bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False
        return parts.scheme in ("https", "http", "ssh", "git", "git+ssh") and has_place and url.isprintable()
    host, colon, path = url.partition(":")
    if len(host) == 1 and path.startswith(("\\", "/")):  # a folder of a drive
        return False
    return bool(colon and host and path) and "/" not in host and not host.startswith("-") and url.isprintable()


def _same_host(url: str) -> list[tuple[str, str]]:
    """Return other ways to begin a URL at this one's host, such as a submodule's, each with the way that is open."""
    if "://" in url and urlsplit(url).scheme in ("http", "https"):
        host = urlsplit(url).hostname
        return [(_origin(url), f"git@{host}:"), (_origin(url), f"ssh://git@{host}/")]
    if "://" in url:
        return [(_origin(url), f"https://{urlsplit(url).hostname}/")]
    place = url.partition(":")[0]
    return [(f"{place}:", f"https://{place.rpartition('@')[2]}/")]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


def _written(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", newline="\n") as file:
        file.write(text if text.endswith("\n") else f"{text}\n")
    return path
