"""A task: commands that run to their end, on one machine or on several at once."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dstack.spec.ports import PortMapping
from dstack.spec.run import JobSpec, RunFields, script_of

NODES_MAX = 1000


class Task(RunFields):
    """A run that ends when its commands have ended.

    Raises:
        pydantic.ValidationError: a field does not fit; names each, with what was expected.

    Example:
        >>> task = Task(commands=["python train.py"], ports=["8000:80"], env={"A": "1"})
        >>> str(task.ports[0]), len(task.jobs())
        ('8000:80', 1)
    """

    type: Literal["task"] = "task"
    nodes: Annotated[int, Field(ge=1, le=NODES_MAX, strict=True)] = 1
    """Number of nodes"""
    ports: list[PortMapping] = []
    """Port numbers/mapping to expose"""
    commands: list[str] = []
    """The bash commands to run"""

    @model_validator(mode="after")
    def _fits_together(self) -> "Task":
        if not self.commands and self.image is None:
            raise ValueError("expected `commands` or `image`, found neither: there is nothing to run")
        ports = [port.container_port for port in self.ports]
        if len(set(ports)) < len(ports):
            twice = next(port for port in ports if ports.count(port) > 1)
            raise ValueError(f"expected each port of the job once, found `{twice}` twice in `ports`")
        return self

    def jobs(self) -> tuple[JobSpec, ...]:
        """One job for each node, all with the same script."""
        script = script_of(self.commands)
        return tuple(JobSpec(0, node, self.nodes, script) for node in range(self.nodes))
