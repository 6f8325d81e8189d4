"""The mounts of a job: volumes, and single files of the submitter."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstack.kit.text import listed, shown
from dstack.kit.units import parsed_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_VOLUME = r"(?:[a-z0-9-]|\$\{\{[^{}]*\}\})+"
_MOUNT = re.compile(rf"(/[^:\0]*|{_VOLUME}):(/[^:\0]*)(?::(ro|rw))?")
_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")
_DRIVE = re.compile(r"[A-Za-z]:(\\|/[^:]*:)")
"""How a path begins that names a drive of Windows; `a:/b` is a file `a`."""
_EXPECTED = "expected a mount such as `my-volume:/data` or `/mnt/disk:/data`"


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A mount: a network volume or a folder of the instance, and its path in the job.

    Examples:
        >>> MountPoint.parse("my-volume:/data").is_on_instance, str(MountPoint("/mnt/disk", "/data"))
        (False, '/mnt/disk:/data')
        >>> MountPoint.parse({"instance_path": "/mnt/cache", "path": "/cache", "optional": True}).optional
        True
    """

    source: str
    """The name of a network volume, or an absolute path on the instance."""
    path: str
    """The absolute path inside the container."""
    read_only: bool = False
    """Whether the mount is read-only."""
    optional: bool = False
    """Whether the job runs without the mount if it cannot be mounted."""
    others: tuple[str, ...] = ()
    """More names of network volumes; each node mounts one of all names."""

    @classmethod
    def parse(cls, value: object) -> "MountPoint":
        """Read `name:/path`, `/path/on/instance:/path`, either with `:ro`, or a mapping.

        A mapping has `path`, and either `name` (also a list of names) or `instance_path`; and optionally `optional`
        and `read_only`.

        Raises:
            ValueError: the value has another form.
        """
        match value:
            case MountPoint():
                return value
            case dict():
                return cls._of_mapping(value)
            case str() if (found := _MOUNT.fullmatch(value)) is not None and _is_source(found[1]):
                return cls(found[1], found[2], found[3] == "ro")
            case _:
                raise ValueError(f"{_EXPECTED}, found {shown(value)}")

    @classmethod
    def _of_mapping(cls, fields: Mapping[str, object]) -> "MountPoint":
        if unknown := sorted(map(str, fields.keys() - _FIELDS)):
            raise ValueError(f"unknown field {shown(unknown[0])}; known are {listed(_FIELDS)}")
        names = fields.get("name", fields.get("instance_path"))
        sources = names if isinstance(names, list) and "name" in fields else [names]
        if not sources or ("name" in fields) == ("instance_path" in fields) or not isinstance(fields.get("path"), str):
            raise ValueError("expected `path`, and one of `name` and `instance_path`")
        flags = {flag: fields.get(flag, False) for flag in ("read_only", "optional")}
        for flag, value in flags.items():
            if not isinstance(value, bool):
                raise ValueError(f"expected `true` or `false` for `{flag}`, found {shown(value)}")
        if flags["optional"] and "name" in fields:
            raise ValueError("expected `optional` beside `instance_path` only, found it beside `name`")
        mounts = [cls.parse(f"{source}:{fields['path']}") for source in sources]
        if any(mount.is_on_instance != ("instance_path" in fields) for mount in mounts):
            raise ValueError("expected a volume's name as `name` and an absolute path as `instance_path`")
        first, *others = mounts
        read_only = bool(flags["read_only"]) or first.read_only
        return cls(first.source, first.path, read_only, bool(flags["optional"]), tuple(one.source for one in others))

    @property
    def is_on_instance(self) -> bool:
        """Whether the source is a folder of the instance, and not a network volume."""
        return self.source.startswith("/")

    def written(self) -> str | dict[str, object]:
        """Return the mount as JSON: as text if text can express it."""
        if not self.optional and not self.others:
            return str(self)
        source = {"instance_path": self.source} if self.is_on_instance else {"name": [self.source, *self.others]}
        flags = {"optional": self.optional, "read_only": self.read_only}
        return {**source, "path": self.path, **{name: True for name, is_set in flags.items() if is_set}}

    def __str__(self) -> str:
        source = ",".join((self.source, *self.others))
        return f"{source}:{self.path}:ro" if self.read_only else f"{source}:{self.path}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.parse, cls.written)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {
            "anyOf": [{"type": "string"}, {"type": "object"}],
            "examples": ["my-volume:/data", "/mnt/disk:/data:ro"],
        }


_FIELDS = ("name", "instance_path", "path", "optional", "read_only")


def _is_source(text: str) -> bool:
    return text.startswith("/") or "${{" in text or _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class FileMapping:
    """A file or folder of the submitter's machine, and its path in the job.

    Examples:
        >>> FileMapping.parse("setup.sh").path, str(FileMapping.parse("~/.vimrc:home/.vimrc"))
        ('setup.sh', '~/.vimrc:home/.vimrc')
    """

    local_path: str
    """The local path: relative to the folder of the configuration's file, absolute, or beginning with `~`."""
    path: str
    """The path in the job: relative to the folder of the run's files, or absolute inside the container."""

    @classmethod
    def parse(cls, value: object) -> "FileMapping":
        """Read `local:path`, `local`, or a mapping with `local_path` and `path`.

        Without a path, the file keeps its own path, inside the folder: `../x` and `~/x` become `x`.

        Raises:
            ValueError: the value has another form, or the path in the job leaves its folder.
        """
        match value:
            case FileMapping():
                return value
            case {"local_path": str() as local_path, "path": str() as path, **rest} if not rest:
                pass
            case {"local_path": str() as local_path, **rest} if not rest:
                path = _inside(local_path)
            case str():
                at = 2 if _DRIVE.match(value) else 0
                local_path, colon, path = value[at:].partition(":")
                local_path = value[:at] + local_path
                path = path if colon else _inside(local_path)
            case _:
                local_path = path = ""
        if not local_path or not path or "\0" in f"{local_path}{path}" or ":" in path:
            raise ValueError(f"expected a file such as `setup.sh` or `~/.vimrc:home/.vimrc`, found {shown(value)}")
        normal = posixpath.normpath(path)
        if normal.startswith(("~", "\\")) or normal.split("/")[0] == "..":
            raise ValueError(
                f"expected where to put it in the job, as in `{local_path}:folder/name`, found {shown(value)}"
            )
        return cls(local_path, normal)

    def __str__(self) -> str:
        is_same = self.local_path == self.path and "\\" not in self.path
        return self.local_path if is_same else f"{self.local_path}:{self.path}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [{"type": "string"}, {"type": "object"}], "examples": ["setup.sh", "~/.vimrc:home/.vimrc"]}


def _inside(local_path: str) -> str:
    """Return a path without the leading `..` and `~`; `..` for a path of a drive, which no job has."""
    if local_path.startswith("/"):
        return local_path
    if _DRIVE.match(f"{local_path}:"):
        return ".."
    normal = posixpath.normpath(local_path.replace("\\", "/"))
    parts = normal.split("/")
    start = 1 if parts[0] == "~" else next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return "/".join(parts[start:])
