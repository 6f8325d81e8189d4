"""The Python API: what this package exports is promised, and nothing else is.

Everything loads at its first use, so that `import dstack.api` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; the real imports happen on first use
    from dstack.api._client import Client as Client
    from dstack.api._repos import LocalRepo as LocalRepo
    from dstack.api._repos import RepoCollection as RepoCollection
    from dstack.api._run import Run as Run
    from dstack.api._runs import RunCollection as RunCollection
    from dstack.api._submissions import RunPlan as RunPlan
    from dstack.errors import ClientError as ClientError
    from dstack.errors import ConfigurationError as ConfigurationError
    from dstack.errors import DstackError as DstackError
    from dstack.errors import NoCapacityError as NoCapacityError
    from dstack.errors import PortUsedError as PortUsedError
    from dstack.errors import RepoDoesNotExistError as RepoDoesNotExistError
    from dstack.errors import ResourceExistsError as ResourceExistsError
    from dstack.errors import ResourceNotExistsError as ResourceNotExistsError
    from dstack.errors import ServerError as ServerError
    from dstack.errors import ServerUnreachableError as ServerUnreachableError
    from dstack.errors import SSHError as SSHError
    from dstack.errors import UnauthorizedError as UnauthorizedError
    from dstack.kit.ranges import Range as Range
    from dstack.kit.units import Memory as Memory
    from dstack.protocol.statuses import RunStatus as RunStatus
    from dstack.spec.backends import BackendType as BackendType
    from dstack.spec.resources import GPU as GPU
    from dstack.spec.resources import ComputeCapability as ComputeCapability
    from dstack.spec.resources import Disk as Disk
    from dstack.spec.resources import Resources as Resources
    from dstack.spec.run import RegistryAuth as RegistryAuth
    from dstack.spec.task import Task as Task

_HOME = {
    "BackendType": "dstack.spec.backends",
    "Client": "dstack.api._client",
    "ClientError": "dstack.errors",
    "ComputeCapability": "dstack.spec.resources",
    "ConfigurationError": "dstack.errors",
    "Disk": "dstack.spec.resources",
    "DstackError": "dstack.errors",
    "GPU": "dstack.spec.resources",
    "LocalRepo": "dstack.api._repos",
    "Memory": "dstack.kit.units",
    "NoCapacityError": "dstack.errors",
    "PortUsedError": "dstack.errors",
    "Range": "dstack.kit.ranges",
    "RegistryAuth": "dstack.spec.run",
    "RepoCollection": "dstack.api._repos",
    "RepoDoesNotExistError": "dstack.errors",
    "ResourceExistsError": "dstack.errors",
    "ResourceNotExistsError": "dstack.errors",
    "Resources": "dstack.spec.resources",
    "Run": "dstack.api._run",
    "RunCollection": "dstack.api._runs",
    "RunPlan": "dstack.api._submissions",
    "RunStatus": "dstack.protocol.statuses",
    "SSHError": "dstack.errors",
    "ServerError": "dstack.errors",
    "ServerUnreachableError": "dstack.errors",
    "Task": "dstack.spec.task",
    "UnauthorizedError": "dstack.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:  # whatever the name stands for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
