"""The Pythons of this host, and the virtual environments that jobs get of them."""

import asyncio
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from glob import glob
from pathlib import Path

from dstack.agent.commands import run_command
from dstack.errors import AgentRefused

TIMEOUT_S = 300.0
LINES_TOLD = 3
"""Of what a failed command printed: the last ones."""
_NAME = re.compile(r"python([23]\.[0-9]{1,2})")
_NOT_PASSED_ON = ("PYTHON", "VIRTUAL_ENV")
_PLACES = (
    *("/usr/local/bin", "/usr/bin", "/opt/conda/bin", "~/miniconda3/bin", "~/miniforge3/bin", "~/.local/bin"),
    *("{pyenv}/versions/*/bin", "{uv}/*/bin"),
)
"""Where interpreters are beside `PATH`: the system's, Conda's, pyenv's and uv's."""


def find_pythons(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the interpreter of each version of which virtual environments can be made; `PATH` goes first. Blocks.

    Every installation has its program under a name such as `python3.12`, and its library beside it: no program is run.
    """
    found: dict[str, str] = {}
    for folder in _folders(environ):
        with suppress(OSError):
            for name in os.listdir(folder):
                match = _NAME.fullmatch(name)
                if (
                    match
                    and match[1] not in found
                    and _makes_environments(path := os.path.join(folder, name), match[1])
                ):
                    found[match[1]] = path
    return found


def versions_of(pythons: Mapping[str, str]) -> tuple[str, ...]:
    """Return their versions, the oldest first."""
    return tuple(sorted(pythons, key=lambda version: [int(number) for number in version.split(".")]))


async def make_environment(version: str, folder: Path) -> str:
    """Make a virtual environment with pip, in place of whatever is in the folder. Returns the interpreter it is of.

    Raises:
        AgentRefused: there is no such Python, or it could not; says why in its own words.
    """
    pythons = await asyncio.to_thread(find_pythons)
    if (interpreter := pythons.get(version)) is None:
        has = ", ".join(versions_of(pythons)) or "none"
        raise AgentRefused(
            f"The job's machine has no Python {version} that makes virtual environments; it has {has}",
            hint=f"Install it with its `venv` and `ensurepip` (Debian: `python{version}-venv`)",
        )
    env = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    try:
        code, said = await run_command(
            (interpreter, "-Im", "venv", "--clear", str(folder)), folder.parent, env, TIMEOUT_S
        )
    except TimeoutError:
        code, said = -1, f"it took longer than {TIMEOUT_S:g} s"
    if code != 0:
        lines = [line.strip() for line in said.splitlines() if line.strip()] or [f"exit code {code}"]
        raise AgentRefused(
            f"`{interpreter}` could not make a virtual environment: {'; '.join(lines[-LINES_TOLD:])}",
            hint="Mend that Python, or leave `python` out",
        )
    return interpreter


def _folders(environ: Mapping[str, str]) -> Iterator[str]:
    yield from (entry for entry in environ.get("PATH", "").split(os.pathsep) if os.path.isabs(entry))
    roots = {
        "pyenv": environ.get("PYENV_ROOT") or "~/.pyenv",
        "uv": environ.get("UV_PYTHON_INSTALL_DIR") or "~/.local/share/uv/python",
    }
    for place in _PLACES:
        yield from sorted(glob(os.path.expanduser(place.format_map(roots))), reverse=True)


def _makes_environments(interpreter: str, version: str) -> bool:
    """Debian, for one, has `ensurepip` in a package of its own. A shim of pyenv's has no library beside it."""
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(interpreter)))
    libraries = (os.path.join(prefix, lib, f"python{version}") for lib in ("lib", "lib64"))
    return os.access(interpreter, os.X_OK) and any(
        all(os.path.isdir(os.path.join(library, module)) for module in ("venv", "ensurepip")) for library in libraries
    )
