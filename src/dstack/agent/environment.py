"""What a job finds in its environment, and which shell runs it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from dstack.agent.processes import MARKER
from dstack.errors import AgentRefused
from dstack.protocol.agent import JobOrder

_BASICS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "LD_LIBRARY_PATH")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")
KEPT = frozenset((*_BASICS, *_PROXIES, *_CERTIFICATES))
KEPT_PREFIXES = ("LC_", "SSL_CERT_", "PIP_", "UV_", "CUDA_", "NVIDIA_")
"""What of the agent's own environment a job may see: how to find and reach things, and nothing that could be a secret
of the server that started the agent."""

SHELLS = ("bash", "sh")


def job_environment(
    order: JobOrder, visible: Mapping[str, str], inherited: Mapping[str, str], files: Path, working_dir: Path
) -> dict[str, str]:
    """The whole environment of a job: what is kept of `inherited`, then the order's, then what only the agent knows.

    Args:
        visible: by which it finds its GPUs.
        files: the job's folder of files, absolute.
        working_dir: where the job starts, absolute.
    """
    kept = {name: value for name, value in inherited.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        **order.env,
        **visible,
        MARKER: order.job_id,
        "DSTACK_REPO_DIR": str(files),
        "DSTACK_WORKING_DIR": str(working_dir),
    }


def find_shell(order: JobOrder, path: str | None) -> str:
    """The shell that is to run the script, as an absolute path: the order's, or bash where there is one, or sh.

    Args:
        path: the `PATH` to look in.

    Raises:
        AgentRefused: there is no such shell on this host.
    """
    names = SHELLS if order.shell is None else (order.shell,)
    for name in names:
        if name in SHELLS and (found := shutil.which(name, path=path)) is not None:
            return os.path.abspath(found)
    raise AgentRefused(f"There is no shell `{names[0]}` on this host", hint="Use `shell: sh`, or install it")


def resolve_working_dir(files: Path, working_dir: str) -> Path:
    """Where the job starts: inside its folder of files, whatever links there are on the way.

    Raises:
        AgentRefused: it is outside.
    """
    root = files.resolve()
    found = (root / working_dir).resolve()
    if not found.is_relative_to(root):
        raise AgentRefused(
            f"The working directory `{working_dir}` is outside the job's folder",
            hint="Make `working_dir` relative to the folder of the run's files",
        )
    return found
