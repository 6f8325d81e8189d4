"""Ports of a job and the local ports that lead to them: `80`, `8000:80`, `*:80`."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstack.kit.text import found_in, shown
from dstack.kit.units import parsed_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_MAPPING = re.compile(r"(?:([0-9]{1,5}|\*):)?([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of a job, and the local port that leads to it.

    Examples:
        >>> PortMapping.parse("8000:80"), str(PortMapping.parse(80)), str(PortMapping(None, 80))
        (PortMapping(local_port=8000, container_port=80), '80', '*:80')
    """

    local_port: int | None
    """The local port, 1 to 65535; None for any free one."""
    container_port: int
    """The job's port, 1 to 65535."""

    @classmethod
    def parse(cls, value: object) -> "PortMapping":
        """Read a port such as `80`, `8000:80` or `*:80`.

        Raises:
            ValueError: the value has another form.
        """
        if isinstance(value, PortMapping):
            return value
        match = None if isinstance(value, bool) else _MAPPING.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(f"expected a port such as `80`, `8000:80` or `*:80`, found {shown(value)}")
        container_port = int(match[2])
        local_port = None if match[1] == "*" else int(match[1] or container_port)
        for port in (local_port, container_port):
            if port is not None and not 1 <= port <= 65_535:
                raise ValueError(f"expected a port from 1 to 65535, {found_in(str(port), str(value))}")
        return cls(local_port, container_port)

    def __str__(self) -> str:
        if self.local_port == self.container_port:
            return str(self.container_port)
        return f"{'*' if self.local_port is None else self.local_port}:{self.container_port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [{"type": "string"}, {"type": "integer"}], "examples": [80, "8000:80", "*:80"]}
