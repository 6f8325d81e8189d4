"""The clouds. `load` imports a driver when it is first used: a server with one backend does not import the SDKs of
others. Retries, naming and caching are the engine's work and do not belong in a driver."""

import keyword
from importlib import import_module

from dstack.backends.base import Backend
from dstack.errors import ConfigurationError
from dstack.spec.backends import BackendType


def load(name: str) -> type[Backend]:
    """The driver class called `name`: `driver` in the module of that name.

    Raises:
        ConfigurationError: there is no such backend.
    """
    if name not in BackendType.__members__.values():
        known = ", ".join(sorted(BackendType))
        raise ConfigurationError(f"There is no backend called `{name}`", hint=f"Use one of: {known}")
    module = f"{name}_" if keyword.iskeyword(name) else name  # `lambda` lives in lambda_.py
    driver: type[Backend] = import_module(f"dstack.backends.{module}").driver
    return driver
