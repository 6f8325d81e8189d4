"""A dev environment: a machine to work on with a local editor."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from dstack.spec.base import Conflict, Text, matching
from dstack.spec.ports import PortMapping
from dstack.spec.profile import Limit
from dstack.spec.run import JobSpec, RunFields, port_conflicts, script_of

FOR_EVER = "while :; do sleep 86400; done 2>/dev/null"
"""Without the word that bash has for a program that was ended with it."""

_FETCH_EDITOR = """\
(
case "$(uname -m)" in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac
url=https://update.code.visualstudio.com/{version}/server-linux-$arch/stable
draft=$(mktemp -d) && mkdir -p ~/.vscode-server/bin || exit
if command -v curl >/dev/null; then fetch='curl -fsSL'; else fetch='wget -qO-'; fi
if $fetch "$url" | tar -xz -C "$draft" --strip-components 1 && [ -s "$draft/product.json" ]; then
commit=$(sed -n 's/.*"commit": *"\\([0-9a-f]*\\)".*/\\1/p' "$draft/product.json")
[ -e ~/.vscode-server/bin/"$commit" ] || mv "$draft" ~/.vscode-server/bin/"$commit"
echo '[dstack: the server of VS Code {version} is installed]'
else
echo '[dstack: the server of VS Code {version} cannot be downloaded; the editor installs its own]'
fi
rm -rf "$draft"
) &"""
"""Installs the editor's server in the background, parallel to `init`, so that the editor connects sooner."""
_COMMIT_CHARACTERS = 40


class DevEnvironment(RunFields):
    """A run for work with an editor over SSH, until it is stopped.

    Raises:
        pydantic.ValidationError: fields are invalid. Lists each, with the expected form.

    Examples:
        >>> workplace = DevEnvironment(ide="vscode", init=["pip install -r requirements.txt"])
        >>> workplace.ide, workplace.ports
        ('vscode', [])
    """

    type: Literal["dev-environment"] = "dev-environment"
    """The type of the configuration: `dev-environment`"""
    ide: Literal["vscode", "cursor", "windsurf", "zed"] | None = None
    """The editor: `vscode`, `cursor`, `windsurf` or `zed`. By default none: SSH only"""
    version: Annotated[Text, matching(r"[\w.-]+", "a version such as `1.96.0`")] | None = None
    """The version or commit of the editor's server to install in advance. Only for `vscode`"""
    init: list[Text] = []
    """The shell commands to run at the start"""
    ports: list[PortMapping] = []
    """The job's ports to forward: `80`, `8000:80` (local port:job's port), `*:80` for any free local port"""
    inactivity_duration: Limit = None
    """The time without a connected user after which the run is stopped, in seconds or as `2h`. `off` by default"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from port_conflicts(written)

    def jobs(self) -> tuple[JobSpec, ...]:
        """Return one job."""
        return (JobSpec(0, 0, 1),)

    def script(self) -> str:
        """Return a script that installs the editor's server, runs `init` and waits."""
        return script_of([*self._editor(), *self.init, FOR_EVER])

    def _editor(self) -> list[str]:
        if self.version is None or self.ide != "vscode":
            return []
        is_commit = len(self.version) == _COMMIT_CHARACTERS
        return [_FETCH_EDITOR.format(version=f"commit:{self.version}" if is_commit else self.version)]

    def port_mappings(self) -> tuple[PortMapping, ...]:
        """Return the ports of the configuration."""
        return tuple(self.ports)
