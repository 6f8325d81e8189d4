"""A task: commands that run to their end, on one machine or on several at once."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dstack.spec.base import Conflict, Text
from dstack.spec.ports import PortMapping
from dstack.spec.run import JobSpec, RunFields, port_conflicts, script_of

NODES_MAX = 1000


class Task(RunFields):
    """A run that ends when its commands have ended.

    Raises:
        pydantic.ValidationError: fields do not fit; names each, with what was expected.

    Examples:
        >>> task = Task(commands=["python train.py"], ports=["8000:80"], env={"A": "1"})
        >>> str(task.ports[0]), len(task.jobs())
        ('8000:80', 1)
    """

    type: Literal["task"] = "task"
    """What kind of configuration it is"""
    nodes: Annotated[int, Field(ge=1, le=NODES_MAX, strict=True)] = 1
    """How many machines run the commands at once"""
    ports: list[PortMapping] = []
    """The job's ports that are forwarded here: `80`, `8000:80` (local:job), `*:80` for any local one"""
    commands: list[Text] = []
    """What the shell runs, one after the other; the first that fails ends the job with its exit code"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from port_conflicts(written)
        if not written.get("commands") and written.get("image") is None:
            yield Conflict(None, "expected `commands` or `image`, found neither: there is nothing to run")

    def jobs(self) -> tuple[JobSpec, ...]:
        """One job for each node, all with the same script."""
        script = script_of(self.commands)
        return tuple(JobSpec(0, node, self.nodes, script) for node in range(self.nodes))

    def port_mappings(self) -> tuple[PortMapping, ...]:
        """As the configuration says."""
        return tuple(self.ports)
