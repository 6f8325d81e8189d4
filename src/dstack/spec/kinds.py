"""The types of configurations by name. Each class is imported at its first use: most programs use one."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from dstack.spec.base import Spec
    from dstack.spec.configurations import Configuration, RunConfiguration

_AnySpec = TypeVar("_AnySpec", bound="Spec")


class Kinds(Mapping[str, type[_AnySpec]], Generic[_AnySpec]):
    """Classes of configurations by their `type`."""

    def __init__(self, homes: Mapping[str, tuple[str, str]]) -> None:
        self._homes = homes

    def __getitem__(self, kind: str) -> type[_AnySpec]:
        module, name = self._homes[kind]
        found: type[_AnySpec] = getattr(import_module(module), name)
        return found

    def __contains__(self, kind: object) -> bool:
        return kind in self._homes

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


_RUNS = {
    "task": ("dstack.spec.task", "Task"),
    "service": ("dstack.spec.service", "Service"),
    "dev-environment": ("dstack.spec.dev_environment", "DevEnvironment"),
}
_OTHERS = {
    "fleet": ("dstack.spec.fleet", "Fleet"),
    "gateway": ("dstack.spec.gateway", "Gateway"),
    "volume": ("dstack.spec.volume", "Volume"),
}

RUN_TYPES: "Kinds[RunConfiguration]" = Kinds(_RUNS)
"""Every run type by its `type`. A new run type needs a module and an entry in `_RUNS`."""

TYPES: "Kinds[Configuration]" = Kinds({**_RUNS, **_OTHERS})
"""Every class of configurations by its `type`."""
