"""A volume: a network disk that outlives runs."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from dstack.kit.units import Memory
from dstack.spec.backends import BackendType
from dstack.spec.base import Conflict, Spec, Text
from dstack.spec.profile import Limit, Name, Tags


class Volume(Spec):
    """A network disk: a new one, or an existing one.

    Raises:
        pydantic.ValidationError: fields are invalid. Lists each, with the expected form.

    Examples:
        >>> str(Volume(name="data", backend="aws", region="eu-west-1", size="100GB").size)
        '100GB'
    """

    type: Literal["volume"] = "volume"
    """The type of the configuration: `volume`"""
    name: Name | None = None
    """The volume's name. A random name by default"""
    backend: BackendType
    """The backend of the disk"""
    region: str
    """The region of the disk"""
    availability_zone: str | None = None
    """The availability zone of the disk. Any by default"""
    size: Memory | None = None
    """The size of a new disk, such as `100GB`"""
    volume_id: Text | None = None
    """The backend's id of an existing disk"""
    auto_cleanup_duration: Limit = None
    """The time without use after which the volume is deleted, in seconds or as `7d`. `off` by default"""
    tags: Tags = {}
    """Tags of the disk at the cloud: up to 50 names with values"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        if written.get("size") is None and written.get("volume_id") is None:
            yield Conflict(None, "expected `size` or `volume_id`, found neither")
