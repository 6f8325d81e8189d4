"""The resources that a job requires of a machine: CPUs, memory, disk, GPUs."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from dstack.kit.ranges import Range, parse_count
from dstack.kit.text import found_in, shown
from dstack.kit.units import Memory, parsed_schema
from dstack.spec.base import NUMBER, TEXT, Also, Spec

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


class GPUVendor(StrEnum):
    """The vendor of an accelerator."""

    NVIDIA = "nvidia"
    AMD = "amd"
    GOOGLE = "google"
    INTEL = "intel"
    TENSTORRENT = "tenstorrent"


CPU_MIN = 2
_VENDOR_ALIASES = {"tpu": "google"}
_NAME = re.compile(r"[^\W\d_][^:,]*")


def _in_any_case(word: str) -> str:
    """Return a pattern for a word in any case; patterns of JSON Schema have no flag for that."""
    return "".join(f"[{letter}{letter.upper()}]" for letter in word)


_VENDOR_TEXT = {"type": "string", "pattern": f"^({'|'.join(map(_in_any_case, [*GPUVendor, *_VENDOR_ALIASES]))})$"}


class CPUArchitecture(StrEnum):
    """The instruction set of a machine's processors."""

    X86 = "x86"
    ARM = "arm"


_ARCHITECTURE_ALIASES = {"x86_64": "x86", "amd64": "x86", "arm64": "arm", "aarch64": "arm"}


class CPU(Range[int]):
    """The number of CPU cores, and optionally their architecture.

    Examples:
        >>> CPU.read("x86:4..").arch.value, str(CPU.read("arm:4")), CPU.read("2..8").arch
        ('x86', 'arm:4', None)
    """

    __slots__ = ("_arch",)

    def __init__(self, min: int | None = None, max: int | None = None, arch: CPUArchitecture | None = None) -> None:
        super().__init__(min, max)
        self._arch = arch

    @property
    def arch(self) -> CPUArchitecture | None:
        """The architecture; None for any."""
        return self._arch

    @classmethod
    def read(cls, value: object) -> "CPU":
        """Read a count or a range, optionally after `x86:` or `arm:`; or a mapping with `arch` and `count`.

        Raises:
            ValueError: the value has another form.
        """
        match value:
            case CPU():
                return value
            case {"arch": arch, "count": count, **rest} if not rest:
                pass
            case {"arch": arch, **rest} if not rest:
                count = f"{CPU_MIN}.."
            case {"count": count, **rest} if not rest:
                arch = None
            case str() if ":" in value or _architecture(value) is not None:
                first, _, last = (part.strip() for part in value.partition(":"))
                arch, count = (last, first) if _architecture(last) is not None else (first, last or f"{CPU_MIN}..")
            case _:
                arch, count = None, value
        known = None if arch is None else _architecture(arch)
        if arch is not None and known is None:
            raise ValueError(f"expected `x86` or `arm` and a count, as in `x86:4..`, found {shown(value)}")
        range = Range.parse(count, parse_count)
        return cls(range.min, range.max, known)

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and getattr(other, "arch", None) == self.arch

    def __hash__(self) -> int:
        return hash((self.min, self.max, self.arch))

    def __str__(self) -> str:
        return super().__str__() if self.arch is None else f"{self.arch}:{super().__str__()}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.read)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        return {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "object"}], "examples": ["4..", "arm:4"]}


def _architecture(value: object) -> CPUArchitecture | None:
    word = value.lower() if isinstance(value, str) else ""
    known = _ARCHITECTURE_ALIASES.get(word, word)
    return CPUArchitecture(known) if known in CPUArchitecture.__members__.values() else None


class ComputeCapability(tuple[int, int]):
    """The compute capability of an NVIDIA GPU, as major and minor number.

    Examples:
        >>> ComputeCapability.parse("7.5") < ComputeCapability.parse((8, 0)), str(ComputeCapability.parse(7.5))
        (True, '7.5')
    """

    @classmethod
    def parse(cls, value: object) -> "ComputeCapability":
        """Read `7.5`, `"7.5"` or `(7, 5)`.

        Raises:
            ValueError: the value has another form.
        """
        parts = value if isinstance(value, (tuple, list)) else str(value).split(".")
        numbers = [str(part) for part in parts]
        if isinstance(value, bool) or len(numbers) not in (1, 2) or not all(_is_digits(part) for part in numbers):
            raise ValueError(f"expected a compute capability such as `7.5`, found {shown(value)}")
        return cls((int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0))

    def __str__(self) -> str:
        return f"{self[0]}.{self[1]}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        return parsed_schema(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", _handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        pair = {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}
        return {"anyOf": [{"type": "string"}, {"type": "number"}, pair], "examples": ["7.5"]}


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _vendor(value: object) -> object:
    return _VENDOR_ALIASES.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _names(value: object) -> object:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | None):
        raise ValueError(f"expected a GPU's name or a list of them, found {shown(value)}")
    return names


def _gpu_name(value: object) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not _NAME.fullmatch(name) or _is_vendor(name):
        raise ValueError(f"expected a GPU's name such as `A100`, found {shown(value)}")
    return name


def _is_vendor(token: str) -> bool:
    return token.lower() in _VENDOR_ALIASES or token.lower() in GPUVendor.__members__.values()


GPUName = Annotated[str, BeforeValidator(_gpu_name)]


class GPU(Spec):
    """The required GPUs.

    A string has tokens separated by `:` in any order: vendor, name or names, memory, count. `any` stands for a GPU of
    any kind, and `none` for no GPU.

    Examples:
        >>> gpu = GPU.model_validate("A100:40GB:2")
        >>> gpu.name, str(gpu.memory), str(gpu.count), str(gpu)
        (['A100'], '40GB', '2', 'A100:40GB:2')
    """

    vendor: Annotated[GPUVendor | None, BeforeValidator(_vendor), Also((_VENDOR_TEXT,))] = None
    """The vendor of the GPU: `nvidia`, `amd`, `google` (or `tpu`), `intel` or `tenstorrent`. Any by default"""
    name: Annotated[list[GPUName] | None, BeforeValidator(_names), Also((TEXT,))] = None
    """The name of the GPU, such as `A100`, or a list of acceptable names. Any by default"""
    count: Range[int] = Range(1, 1)
    """The number of GPUs: a number, or a range such as `2..4`"""
    memory: Range[Memory] | None = None
    """The memory of each GPU, such as `16GB`, or a range such as `16GB..80GB`. Any by default"""
    total_memory: Range[Memory] | None = None
    """The memory of all GPUs together, such as `32GB`, or a range. Any by default"""
    compute_capability: ComputeCapability | None = None
    """The least compute capability, such as `7.5`. Any by default"""

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, value: Any) -> Any:
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return parse_gpu(str(value))
        return value

    def __str__(self) -> str:
        names = ",".join(self.name) if self.name else None
        parts = [self.vendor, names, self.memory, self.count if "count" in self.model_fields_set else None]
        return ":".join(str(part) for part in parts if part is not None) or str(self.count)


def parse_gpu(text: str) -> dict[str, object]:
    """Return the fields in a GPU's short form, such as `A100:40GB:2`.

    Raises:
        ValueError: a token is unknown, or two tokens are of one kind.
    """
    fields: dict[str, object] = {}
    if text.strip().lower() == "none":
        return {"count": 0}
    for token in (part.strip() for part in text.split(":") if part.strip().lower() != "any"):
        kind = _kind_of(token)
        if kind is None:
            raise ValueError(f"expected vendor, name, memory or count, {found_in(token, text)}")
        if kind in fields:
            advice = "; memory has a unit, as in `40GB`" if kind == "count" else ""
            raise ValueError(f"expected one {kind} in {shown(text)}, found {shown(token)} as well{advice}")
        fields[kind] = token.split(",") if kind == "name" else token
    return fields


def _kind_of(token: str) -> str | None:
    if not token:
        return None
    if _is_vendor(token):
        return "vendor"
    if token[0].isdigit() or token.startswith(".."):
        return "count" if _parses(lambda: Range.parse(token, parse_count)) else _memory_or_none(token)
    return "name" if all(_NAME.fullmatch(name.strip()) for name in token.split(",")) else None


def _memory_or_none(token: str) -> str | None:
    return "memory" if _parses(lambda: Range.parse(token, Memory.parse)) else None


def _parses(parse: Callable[[], object]) -> bool:
    try:
        parse()
    except ValueError:
        return False
    return True


class Disk(Spec):
    """The required disk.

    Examples:
        >>> str(Disk(size="200GB..").size)
        '200GB..'
    """

    size: Range[Memory]
    """The size of the disk, such as `200GB`, or a range such as `200GB..`"""

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, value: Any) -> Any:
        return {"size": value} if isinstance(value, (str, int, float, Range)) else value


def _any_disk_of_100_gb() -> Disk:
    return Disk.model_construct(_fields_set={"size"}, size=Range(Memory(100), None))


class Resources(Spec):
    """The required CPUs, memory, disk and GPUs of a job's machine.

    Examples:
        >>> needs = Resources(cpu="4..", memory="16GB", gpu="A100:2")
        >>> needs.cpu.min, needs.memory.min.mib, str(needs.gpu)
        (4, 16384, 'A100:2')
    """

    cpu: CPU = CPU(CPU_MIN)
    """The number of CPU cores, optionally with an architecture: `4..`, `x86:4..`, `arm:4`"""
    memory: Range[Memory] = Range(Memory(8), None)
    """The memory, such as `16GB`, or a range such as `16GB..64GB`"""
    shm_size: Memory | None = None
    """The size of shared memory, such as `8GB`, for processes that exchange data, such as data loaders"""
    gpu: Annotated[GPU | None, Also((TEXT, NUMBER), "a text such as `24GB..`, a number")] = None
    """The GPUs: a short form such as `A100:2`, a number, or a mapping. None by default"""
    disk: Annotated[Disk | None, Also((TEXT, NUMBER), "a size such as `200GB..`")] = Field(
        default_factory=_any_disk_of_100_gb
    )
    """The size of the disk, such as `200GB`, or a range such as `200GB..`"""


def describe(resources: Resources) -> str:
    """Return all requirements on one line.

    Examples:
        >>> describe(Resources(gpu="A100:40GB:2", shm_size="1GB"))
        '2..xCPU, 8GB.., 1GB (shared memory), 100GB.. (disk), A100:40GB:2'
    """
    parts = [f"{resources.cpu}xCPU", str(resources.memory)]
    if resources.shm_size is not None:
        parts.append(f"{resources.shm_size} (shared memory)")
    if resources.disk is not None:
        parts.append(f"{resources.disk.size} (disk)")
    return ", ".join([*parts, *_gpu_parts(resources.gpu)] if resources.gpu and resources.gpu.count.max != 0 else parts)


def _gpu_parts(gpu: GPU) -> list[str]:
    """Return the short form of a GPU, followed by the fields that it does not contain.

    Without a vendor and a name, the short form would not show that its memory is a GPU's.
    """
    memory = f" ({gpu.memory})" if gpu.memory else ""
    parts = [str(gpu) if gpu.vendor or gpu.name else f"{gpu.count}xGPU{memory}"]
    if gpu.total_memory is not None:
        parts.append(f"{gpu.total_memory} (GPU memory in all)")
    if gpu.compute_capability is not None:
        parts.append(f"{gpu.compute_capability}.. (compute capability)")
    return parts
