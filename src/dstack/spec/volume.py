"""A volume: a network disk that outlives runs."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from dstack.kit.units import Memory
from dstack.spec.backends import BackendType
from dstack.spec.base import Conflict, Spec
from dstack.spec.profile import Limit, Name, Tags


class Volume(Spec):
    """A network disk, new or one that there is already.

    Raises:
        pydantic.ValidationError: fields do not fit; names each, with what was expected.

    Examples:
        >>> str(Volume(name="data", backend="aws", region="eu-west-1", size="100GB").size)
        '100GB'
    """

    type: Literal["volume"] = "volume"
    """What kind of configuration it is"""
    name: Name | None = None
    """The volume's name; a random one where unset"""
    backend: BackendType
    """Where it is"""
    region: str
    """In which region"""
    availability_zone: str | None = None
    """In which availability zone; any where unset"""
    size: Memory | None = None
    """How large a new one is, such as `100GB`"""
    volume_id: str | None = None
    """The backend's own name of one that there is already"""
    auto_cleanup_duration: Limit = None
    """How long it may be unused before it is deleted, in seconds or as `7d`. `off` where unset"""
    tags: Tags = {}
    """Words that are kept with it at the cloud"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        if written.get("size") is None and written.get("volume_id") is None:
            yield Conflict(None, "expected `size` or `volume_id`, found neither")
