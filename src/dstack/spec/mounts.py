"""What a job finds on its disk beside its repo: volumes, and single files of the submitter."""

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstack.kit.text import shown
from dstack.kit.units import parsed_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_VOLUME = r"[a-z][a-z0-9-]{1,40}"
_MOUNT = re.compile(rf"(/[^:\0]*|{_VOLUME}):(/[^:\0]*)")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A volume, or a folder of the instance, and where a job finds it.

    Examples:
        >>> MountPoint.parse("my-volume:/data").is_on_instance, str(MountPoint("/mnt/disk", "/data"))
        (False, '/mnt/disk:/data')
    """

    source: str
    """The name of a network volume, or an absolute path on the instance."""
    path: str
    """Absolute, inside the container."""

    @classmethod
    def parse(cls, value: object) -> "MountPoint":
        """Read `name:/path`, `/path/on/instance:/path`, or a mapping with `name` or `instance_path`, and `path`.

        Raises:
            ValueError: it is none.
        """
        match value:
            case MountPoint():
                return value
            case {"name": str() as source, "path": str() as path, **rest} if not rest:
                text = f"{source}:{path}"
            case {"instance_path": str() as source, "path": str() as path, **rest} if not rest:
                text = f"{source}:{path}"
            case _:
                text = str(value)
        found = _MOUNT.fullmatch(text) if not isinstance(value, (bool, int)) else None
        if found is None:
            raise ValueError(f"expected a mount such as `my-volume:/data` or `/mnt/disk:/data`, found {shown(value)}")
        return cls(found[1], found[2])

    @property
    def is_on_instance(self) -> bool:
        """Whether it is a folder of the instance, and no network volume."""
        return self.source.startswith("/")

    def __str__(self) -> str:
        return f"{self.source}:{self.path}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [{"type": "string"}, {"type": "object"}], "examples": ["my-volume:/data"]}


@dataclass(frozen=True, slots=True)
class FileMapping:
    """A file or folder of the submitter's machine, and where a job finds it.

    Examples:
        >>> FileMapping.parse("setup.sh").path, str(FileMapping.parse("~/.vimrc:home/.vimrc"))
        ('setup.sh', '~/.vimrc:home/.vimrc')
    """

    local_path: str
    """Relative to the folder of the configuration's file, absolute, or beginning with `~`."""
    path: str
    """Relative to the folder of the run's files, or absolute inside the container."""

    @classmethod
    def parse(cls, value: object) -> "FileMapping":
        """Read `local:path`, `local`, or a mapping with `local_path` and `path`.

        Raises:
            ValueError: it is none, or the path in the job leaves its folder.
        """
        match value:
            case FileMapping():
                return value
            case {"local_path": str() as local_path, "path": str() as path, **rest} if not rest:
                pass
            case str():
                local_path, colon, path = value.partition(":")
                path = path if colon else local_path
            case _:
                local_path = path = ""
        if not local_path or not path or "\0" in f"{local_path}{path}" or ":" in path:
            raise ValueError(f"expected a file such as `setup.sh` or `~/.vimrc:home/.vimrc`, found {shown(value)}")
        normal = posixpath.normpath(path)
        if normal.startswith("~") or normal.split("/")[0] == "..":
            raise ValueError(
                f"expected where to put it in the job, as in `{local_path}:folder/name`, found {shown(value)}"
            )
        return cls(local_path, normal)

    def __str__(self) -> str:
        return self.local_path if self.local_path == self.path else f"{self.local_path}:{self.path}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [{"type": "string"}, {"type": "object"}], "examples": ["setup.sh", "~/.vimrc:home/.vimrc"]}
