"""The clouds. `load` imports a driver when it is first used: a server with one backend does not import the SDKs of
others. Retries, naming and caching are the engine's work and do not belong in a driver."""

import keyword
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstack.backends.base import Backend
from dstack.errors import ConfigurationError
from dstack.kit.text import listed, nearest
from dstack.spec.backends import BackendType
from dstack.spec.mistakes import Mistake, Mistaken

if TYPE_CHECKING:
    from dstack.spec.backend_config import BackendConfig


def load(name: str) -> type[Backend]:
    """The driver class called `name`: `driver` in the module of that name.

    Raises:
        ConfigurationError: there is no such backend, or this version has no driver for it.
    """
    if name not in BackendType.__members__.values():
        known = ", ".join(sorted(BackendType))
        raise ConfigurationError(f"There is no backend called `{name}`", hint=f"Use one of: {known}")
    if not _has_driver(name):
        raise ConfigurationError(f"This version of dstack has no driver for the backend `{name}`")
    driver: type[Backend] = import_module(_module_of(name)).driver
    return driver


def _types_with_driver() -> list[str]:
    return [one.value for one in BackendType if _has_driver(one)]


def _module_of(name: str) -> str:
    return f"dstack.backends.{name}_" if keyword.iskeyword(name) else f"dstack.backends.{name}"  # `lambda`


def _has_driver(name: str) -> bool:
    return find_spec(_module_of(name)) is not None


class Drivers:
    """The drivers of this version: they judge configurations, and make backends of them.

    Args:
        data_dir: where backends may keep files of their own.
        load: returns the driver class of a type.
        types: the types that have one.
    """

    def __init__(
        self,
        data_dir: Path,
        load: Callable[[str], type[Backend]] = load,
        types: Callable[[], list[str]] = _types_with_driver,
    ) -> None:
        self._data_dir = data_dir
        self._load = load
        self._types = types

    def configurable(self) -> list[str]:
        """Return the types of backends that can be added."""
        return [name for name in self._types() if self._load(name).Config is not None]

    def checked(self, config: object) -> dict[str, Any]:
        """Return a configuration with only the fields that were set.

        Raises:
            Mistaken: it has mistakes, none of which shows a credential.
        """
        from dstack.spec.parse import to_mapping, validated

        if not isinstance(config, Mapping):
            raise Mistaken([Mistake((), "expected the configuration of a backend: fields such as `type: aws`")])
        kind = config.get("type")
        if not isinstance(kind, str) or kind not in self.configurable():
            raise Mistaken([Mistake(("type",) if "type" in config else (), self._no_driver(kind))])
        return to_mapping(validated(self._model_of(kind), dict(config)))

    def make(self, config: Mapping[str, Any]) -> Backend:
        """Return a backend with this configuration.

        Raises:
            ConfigurationError: this version has no driver for it, or the driver does not know its configuration.
        """
        from dstack.spec.parse import validated

        driver = self._load(config["type"])
        try:
            return driver(self._data_dir, validated(self._model_of(config["type"]), dict(config)))
        except Mistaken as error:
            raise error.with_fields() from None

    def _model_of(self, kind: str) -> "type[BackendConfig]":
        model = self._load(kind).Config
        if model is None:
            raise ConfigurationError(f"The backend `{kind}` takes no configuration")
        return model

    def _no_driver(self, kind: object) -> str:
        known = self.configurable()
        exist = f"this version can add {listed(known) if known else 'no backend yet'}"
        if kind == BackendType.LOCAL:
            return "the backend `local` needs no configuration: the server has it by `DSTACK_LOCAL_BACKEND`"
        if kind in BackendType.__members__.values():
            return f"there is no driver for the backend `{kind}`; {exist}"
        if not isinstance(kind, str):
            return f"expected a field `type` with the type of the backend; {exist}"
        guess = nearest(kind, known or BackendType)
        return f"there is no backend called `{kind}`" + (f"; did you mean `{guess}`?" if guess else f"; {exist}")
