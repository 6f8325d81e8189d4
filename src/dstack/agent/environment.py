"""What a job finds in its environment, and which shell runs it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from dstack.agent.paths import JobFolder
from dstack.agent.processes import MARKER
from dstack.agent.records import read_replica, read_visible
from dstack.errors import AgentRefused
from dstack.kit.environ import foreign_path
from dstack.protocol.agent import JobOrder

_BASICS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "LD_LIBRARY_PATH")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")
_PIP = ("CACHE_DIR", "CERT", "CLIENT_CERT", "CONFIG_FILE", "DEFAULT_TIMEOUT", "DISABLE_PIP_VERSION_CHECK")
_PIP_INDEXES = ("EXTRA_INDEX_URL", "FIND_LINKS", "INDEX_URL", "NO_INDEX", "PROXY", "RETRIES", "TRUSTED_HOST")
_UV = ("CACHE_DIR", "CONFIG_FILE", "HTTP_TIMEOUT", "NATIVE_TLS", "OFFLINE", "PYTHON_INSTALL_DIR")
_UV_INDEXES = ("DEFAULT_INDEX", "EXTRA_INDEX_URL", "FIND_LINKS", "INDEX", "INDEX_URL", "INSECURE_HOST")
_PACKAGES = (*(f"PIP_{name}" for name in (*_PIP, *_PIP_INDEXES)), *(f"UV_{name}" for name in (*_UV, *_UV_INDEXES)))
"""Where packages come from. Other settings of pip and uv say where packages go, and mean dstack's environment."""
KEPT = frozenset((*_BASICS, *_PROXIES, *_CERTIFICATES, *_PACKAGES))
KEPT_PREFIXES = ("LC_", "SSL_CERT_", "CUDA_", "NVIDIA_")
"""What of the agent's own environment a job may see: how to find and reach things. Nothing of it is a secret of the
server that started the agent, and nothing leads into dstack's own Python environment."""

JOB_UMASK = 0o022
"""Of all that is made for a job, and in it. What the agent keeps to itself lies behind its home, which is private."""

PORT = "PORT"
"""The variable with the port at which a replica of a service is to listen."""

SHELLS = ("bash", "sh")


def job_environment(
    order: JobOrder, folder: JobFolder, inherited: Mapping[str, str], working_dir: Path
) -> dict[str, str]:
    """Return the whole environment of a process job, which is also that of each program that is started in it later.

    It is what is kept of `inherited`, then the order's, then what only the agent knows. Blocks for moments.

    Args:
        inherited: the agent's own environment.
        working_dir: where the job starts, absolute.
    """
    kept = {name: value for name, value in inherited.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    kept["PATH"] = foreign_path(order.path if order.path is not None else kept.get("PATH", os.defpath))
    env = {
        **kept,
        "PYTHONUNBUFFERED": "1",
        **order.env,
        **read_visible(folder),
        **port_variable(order, folder),
        MARKER: order.job_id,
        "DSTACK_REPO_DIR": os.path.normpath(folder.files.resolve() / order.repo_path),
        "DSTACK_WORKING_DIR": str(working_dir),
    }
    if order.python is not None:
        programs = folder.environment / "bin"
        return {**env, "PATH": f"{programs}{os.pathsep}{env['PATH']}", "VIRTUAL_ENV": str(folder.environment)}
    environment = _environment_on(env["PATH"])
    return env if environment is None else {"VIRTUAL_ENV": environment, **env}


def port_variable(order: JobOrder, folder: JobFolder) -> dict[str, str]:
    """Return the variable by which a replica of a service finds its port; nothing for another job."""
    if order.service is None:
        return {}
    known = read_replica(folder)
    return {PORT: str(order.service.port if known is None else known.port)}


def _environment_on(path: str) -> str | None:
    """The virtual environment whose Python a `PATH` leads to: the submitter has activated it."""
    found = shutil.which("python3", path=path)
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(found))) if found is not None else None
    return prefix if prefix is not None and os.path.exists(os.path.join(prefix, "pyvenv.cfg")) else None


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
