"""Configurations for tests, right and wrong, and values of every kind by chance."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import strategies as st

from dstack.errors import ConfigurationError
from dstack.kit.ranges import COUNT_MAX, Range
from dstack.kit.units import DURATION_MAX_S, MEMORY_MAX_GB, Memory
from dstack.spec.kinds import TYPES
from dstack.spec.mistakes import Mistaken
from dstack.spec.parse import build, configuration_of, old_spellings, validated
from dstack.spec.profile import CreationPolicy, Profiles, RetryEvent, SpotPolicy, TerminationPolicy
from dstack.spec.resources import ComputeCapability, GPUVendor
from dstack.spec.yaml import read_yaml


def refusal_of(fields: Mapping[str, Any]) -> str:
    """Why a task with these fields is none."""
    with pytest.raises(ConfigurationError) as caught:
        configuration_of({"type": "task", "commands": ["true"], **fields})
    return caught.value.message


def notes_in(text: str) -> list[str]:
    """Return the notes about old spellings in a configuration `x.yml`."""
    document = read_yaml(text, "x.yml")
    return document.lines_of(old_spellings(build(document.data, TYPES), document.data))


def parse_profiles(text: str, filename: str) -> Profiles:
    """Return the profiles in a YAML text; raises their mistakes with their places."""
    document = read_yaml(text, filename)
    try:
        return validated(Profiles, document.data)
    except Mistaken as error:
        raise document.refusal_of(error.mistakes) from None


def mistakes_in(error: ConfigurationError, filename: str) -> list[str]:
    """Return the lines of an error that has a line of its own for each mistake, below their number."""
    heading, *lines = error.message.split("\n")
    assert heading == f"{filename} has {len(lines)} mistakes" if lines else heading.startswith(f"{filename}:")
    return lines or [heading]


COUNTS = st.integers(0, COUNT_MAX)
SIZES = st.floats(0, MEMORY_MAX_GB).map(Memory)


def _ranges(ends: st.SearchStrategy[Any]) -> st.SearchStrategy[Range[Any]]:
    both = st.tuples(ends, ends).map(lambda pair: Range(min(pair), max(pair)))
    return both | ends.map(lambda end: Range(end, None)) | ends.map(lambda end: Range(None, end))


COUNT_RANGES = _ranges(COUNTS)
SIZE_RANGES = _ranges(SIZES)
GPU_NAMES = st.from_regex(r"[A-Z][A-Za-z0-9 -]{0,10}[0-9]", fullmatch=True)

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{1,40}", fullmatch=True)
LIMITS = st.none() | st.integers(1, DURATION_MAX_S)
PORTS = st.integers(1, 65_535)


def _agree(fields: Mapping[str, Any]) -> bool:
    return fields.get("termination_policy") is not TerminationPolicy.DONT_DESTROY or fields.get("idle_duration") is None


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


RETRIES = _some(on_events=st.lists(st.sampled_from(RetryEvent)), duration=LIMITS)
GPUS = _some(
    vendor=st.sampled_from(GPUVendor),
    name=st.lists(GPU_NAMES, min_size=1, max_size=3),
    count=COUNT_RANGES,
    memory=SIZE_RANGES,
    total_memory=SIZE_RANGES,
    compute_capability=st.tuples(st.integers(0, 99), st.integers(0, 99)).map(ComputeCapability),
)
RESOURCES = _some(
    cpu=COUNT_RANGES,
    memory=SIZE_RANGES,
    shm_size=st.none() | SIZES,
    gpu=st.none() | GPUS,
    disk=st.none() | SIZE_RANGES,
)
TASK_FIELDS = _some(
    type=st.just("task"),
    name=st.none() | NAMES,
    env=st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True), st.none() | TEXTS, max_size=3),
    ports=st.lists(PORTS, unique=True, max_size=3).map(lambda ports: [f"*:{port}" for port in ports]),
    nodes=st.integers(1, 1000),
    priority=st.integers(0, 100),
    max_duration=LIMITS,
    stop_duration=st.none() | st.integers(0, DURATION_MAX_S),
    max_price=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    retry=st.none() | RETRIES,
    regions=st.none() | st.lists(TEXTS, max_size=3),
    spot_policy=st.sampled_from(SpotPolicy),
    creation_policy=st.sampled_from(CreationPolicy),
    termination_policy=st.sampled_from(TerminationPolicy),
    idle_duration=LIMITS,
    privileged=st.booleans(),
    registry_auth=st.none() | st.fixed_dictionaries({"username": TEXTS, "password": TEXTS}),
    volumes=st.lists(st.sampled_from(["data:/data", "/mnt/a:/b"]), max_size=2),
    resources=RESOURCES,
).filter(_agree)
"""Fields of a task by chance, all of them right."""
