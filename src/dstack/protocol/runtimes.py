"""The ways in which jobs run on a host."""

from enum import StrEnum


class Runtime(StrEnum):
    """A way in which jobs run on a host."""

    PROCESS = "process"
    """As processes of the agent's user."""
    CONTAINER = "container"
    """In containers of the host's container engine."""
