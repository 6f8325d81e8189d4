"""The Python API. The names that this package exports are stable; all other names may change.

Each name loads at its first use, so `import dstack.api` costs next to nothing.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; the real imports happen on first use
    from dstack.api._accounts import MemberCollection as MemberCollection
    from dstack.api._accounts import TokenCollection as TokenCollection
    from dstack.api._accounts import UserCollection as UserCollection
    from dstack.api._backends import Backend as Backend
    from dstack.api._backends import BackendCollection as BackendCollection
    from dstack.api._client import Client as Client
    from dstack.api._events import EventCollection as EventCollection
    from dstack.api._repo_collection import RepoCollection as RepoCollection
    from dstack.api._repos import LocalRepo as LocalRepo
    from dstack.api._repos import RemoteRepo as RemoteRepo
    from dstack.api._repos import VirtualRepo as VirtualRepo
    from dstack.api._run import Run as Run
    from dstack.api._runs import RunCollection as RunCollection
    from dstack.api._secrets import SecretCollection as SecretCollection
    from dstack.api._submissions import JobPlan as JobPlan
    from dstack.api._submissions import RunPlan as RunPlan
    from dstack.errors import BackendInvalidCredentialsError as BackendInvalidCredentialsError
    from dstack.errors import ClientError as ClientError
    from dstack.errors import ConfigurationError as ConfigurationError
    from dstack.errors import DstackError as DstackError
    from dstack.errors import ForbiddenError as ForbiddenError
    from dstack.errors import GatewayError as GatewayError
    from dstack.errors import InvalidRequestError as InvalidRequestError
    from dstack.errors import NoCapacityError as NoCapacityError
    from dstack.errors import PortUsedError as PortUsedError
    from dstack.errors import RepoDoesNotExistError as RepoDoesNotExistError
    from dstack.errors import ResourceExistsError as ResourceExistsError
    from dstack.errors import ResourceNotExistsError as ResourceNotExistsError
    from dstack.errors import ServerClientError as ServerClientError
    from dstack.errors import ServerError as ServerError
    from dstack.errors import ServerUnreachableError as ServerUnreachableError
    from dstack.errors import SSHError as SSHError
    from dstack.errors import UnauthorizedError as UnauthorizedError
    from dstack.kit.ranges import Range as Range
    from dstack.kit.units import Memory as Memory
    from dstack.protocol.statuses import RunStatus as RunStatus
    from dstack.spec.backends import BackendType as BackendType
    from dstack.spec.dev_environment import DevEnvironment as DevEnvironment
    from dstack.spec.fleet import Fleet as Fleet
    from dstack.spec.fleet import SSHConfig as SSHConfig
    from dstack.spec.gateway import Gateway as Gateway
    from dstack.spec.profile import Profile as Profile
    from dstack.spec.profile import Retry as Retry
    from dstack.spec.profile import Schedule as Schedule
    from dstack.spec.profile import SpotPolicy as SpotPolicy
    from dstack.spec.profile import UtilizationPolicy as UtilizationPolicy
    from dstack.spec.resources import GPU as GPU
    from dstack.spec.resources import ComputeCapability as ComputeCapability
    from dstack.spec.resources import Disk as Disk
    from dstack.spec.resources import Resources as Resources
    from dstack.spec.run import RegistryAuth as RegistryAuth
    from dstack.spec.service import OpenAIChatModel as OpenAIChatModel
    from dstack.spec.service import Probe as Probe
    from dstack.spec.service import RateLimit as RateLimit
    from dstack.spec.service import Scaling as Scaling
    from dstack.spec.service import Service as Service
    from dstack.spec.service import TGIChatModel as TGIChatModel
    from dstack.spec.task import Task as Task
    from dstack.spec.volume import Volume as Volume

_HOME = {
    "Backend": "dstack.api._backends",
    "BackendCollection": "dstack.api._backends",
    "BackendInvalidCredentialsError": "dstack.errors",
    "BackendType": "dstack.spec.backends",
    "Client": "dstack.api._client",
    "ClientError": "dstack.errors",
    "ComputeCapability": "dstack.spec.resources",
    "ConfigurationError": "dstack.errors",
    "DevEnvironment": "dstack.spec.dev_environment",
    "Disk": "dstack.spec.resources",
    "DstackError": "dstack.errors",
    "EventCollection": "dstack.api._events",
    "Fleet": "dstack.spec.fleet",
    "ForbiddenError": "dstack.errors",
    "GPU": "dstack.spec.resources",
    "Gateway": "dstack.spec.gateway",
    "GatewayError": "dstack.errors",
    "InvalidRequestError": "dstack.errors",
    "JobPlan": "dstack.api._submissions",
    "LocalRepo": "dstack.api._repos",
    "MemberCollection": "dstack.api._accounts",
    "Memory": "dstack.kit.units",
    "NoCapacityError": "dstack.errors",
    "OpenAIChatModel": "dstack.spec.service",
    "PortUsedError": "dstack.errors",
    "Probe": "dstack.spec.service",
    "Profile": "dstack.spec.profile",
    "Range": "dstack.kit.ranges",
    "RateLimit": "dstack.spec.service",
    "RegistryAuth": "dstack.spec.run",
    "RemoteRepo": "dstack.api._repos",
    "RepoCollection": "dstack.api._repo_collection",
    "RepoDoesNotExistError": "dstack.errors",
    "ResourceExistsError": "dstack.errors",
    "ResourceNotExistsError": "dstack.errors",
    "Resources": "dstack.spec.resources",
    "Retry": "dstack.spec.profile",
    "Run": "dstack.api._run",
    "RunCollection": "dstack.api._runs",
    "RunPlan": "dstack.api._submissions",
    "RunStatus": "dstack.protocol.statuses",
    "SSHConfig": "dstack.spec.fleet",
    "SSHError": "dstack.errors",
    "Scaling": "dstack.spec.service",
    "Schedule": "dstack.spec.profile",
    "SecretCollection": "dstack.api._secrets",
    "ServerClientError": "dstack.errors",
    "ServerError": "dstack.errors",
    "ServerUnreachableError": "dstack.errors",
    "Service": "dstack.spec.service",
    "SpotPolicy": "dstack.spec.profile",
    "TGIChatModel": "dstack.spec.service",
    "Task": "dstack.spec.task",
    "TokenCollection": "dstack.api._accounts",
    "UnauthorizedError": "dstack.errors",
    "UserCollection": "dstack.api._accounts",
    "UtilizationPolicy": "dstack.spec.profile",
    "VirtualRepo": "dstack.api._repos",
    "Volume": "dstack.spec.volume",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:  # the type depends on the name
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _without_collections():
        found = getattr(import_module(_HOME[name]), name)
    globals()[name] = found  # a later use does not come here, where it would hide objects from the collector
    return found


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause garbage collection during an import: it makes many objects, and all of them stay.

    In a program that has just begun, no later collection looks at them either. The one at a program's end would take a
    sixth of a short program's time.
    """
    if not gc.isenabled():
        yield
        return
    has_just_begun = not gc.get_stats()[-1]["collections"]  # objects of a longer program may be garbage by now
    gc.disable()
    try:
        yield
    finally:
        if has_just_begun:
            gc.freeze()
        elif not gc.get_freeze_count():
            gc.freeze()  # freeze and unfreeze together move all objects to the oldest generation
            gc.unfreeze()
        gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
