"""A dev environment: a machine to work on with one's own editor."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from dstack.spec.base import Conflict, Text, matching
from dstack.spec.ports import PortMapping
from dstack.spec.profile import Limit
from dstack.spec.run import JobSpec, RunFields, port_conflicts, script_of

_WAIT = "while :; do sleep 86400; done"


class DevEnvironment(RunFields):
    """A run that lasts until it is stopped, to be worked in with an editor over SSH.

    Raises:
        pydantic.ValidationError: fields do not fit; names each, with what was expected.

    Examples:
        >>> workplace = DevEnvironment(ide="vscode", init=["pip install -r requirements.txt"])
        >>> workplace.ide, workplace.ports
        ('vscode', [])
    """

    type: Literal["dev-environment"] = "dev-environment"
    """What kind of configuration it is"""
    ide: Literal["vscode", "cursor", "windsurf"]
    """The editor: `vscode`, `cursor` or `windsurf`"""
    version: Annotated[Text, matching(r"[\w.-]+", "a version such as `1.96.0`")] | None = None
    """The version of the editor's server; that of the editor itself where unset"""
    init: list[Text] = []
    """What the shell runs at the start"""
    ports: list[PortMapping] = []
    """The job's ports that are forwarded here: `80`, `8000:80` (local:job), `*:80` for any local one"""
    inactivity_duration: Limit = None
    """How long nobody may be connected before it is stopped, in seconds or as `2h`. `off` where unset"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from port_conflicts(written)

    def jobs(self) -> tuple[JobSpec, ...]:
        """One job that runs `init` and waits."""
        return (JobSpec(0, 0, 1, script_of([*self.init, _WAIT])),)

    def port_mappings(self) -> tuple[PortMapping, ...]:
        """As the configuration says."""
        return tuple(self.ports)
