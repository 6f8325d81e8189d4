"""A task: commands that run to their end, on one machine or on several machines at once."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dstack.spec.base import Conflict, Text
from dstack.spec.ports import PortMapping
from dstack.spec.run import JobSpec, RunFields, nothing_to_run, port_conflicts, script_of

NODES_MAX = 1000


class Task(RunFields):
    """A run that ends with its commands: training, batch jobs, tests.

    Raises:
        pydantic.ValidationError: fields are invalid. Lists each, with the expected form.

    Examples:
        >>> task = Task(commands=["python train.py"], ports=["8000:80"], env={"A": "1"})
        >>> str(task.ports[0]), len(task.jobs())
        ('8000:80', 1)
    """

    type: Literal["task"] = "task"
    """The type of the configuration: `task`"""
    nodes: Annotated[int, Field(ge=1, le=NODES_MAX, strict=True)] = 1
    """The number of machines that run the commands at once"""
    ports: list[PortMapping] = []
    """The job's ports to forward: `80`, `8000:80` (local port:job's port), `*:80` for any free local port"""
    commands: list[Text] = []
    """The shell commands, run in order. The first that fails ends the job with its exit code"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from port_conflicts(written)
        yield from nothing_to_run(written)

    def jobs(self) -> tuple[JobSpec, ...]:
        """Return one job for each node."""
        return tuple(JobSpec(0, node, self.nodes) for node in range(self.nodes))

    def script(self) -> str:
        """Return the commands as a script."""
        return script_of(self.commands)

    def port_mappings(self) -> tuple[PortMapping, ...]:
        """Return the ports of the configuration."""
        return tuple(self.ports)
