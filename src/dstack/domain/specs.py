"""A run's configuration for the engine: jobs, demands, policies."""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from posixpath import isabs
from typing import Any

from dstack.domain.objects import Revision
from dstack.domain.offers import Bounds, Demand, GpuDemand
from dstack.domain.retries import RetryPolicy
from dstack.kit.ranges import Range
from dstack.kit.units import Memory
from dstack.kit.weighed import WeighedCache
from dstack.spec.configurations import RunConfiguration
from dstack.spec.dev_environment import DevEnvironment
from dstack.spec.parse import configuration_of
from dstack.spec.profile import CreationPolicy, TerminationPolicy
from dstack.spec.resources import GPU, Resources
from dstack.spec.service import Service

STOP_GRACE_S = 10.0

PARSED_BYTES_MAX = 16 << 20
"""The bound of the configurations that are kept, each with its spec."""
PARSED_BYTES = 6_000
"""A small configuration and its spec in memory; each further byte of a spec as JSON takes about two."""

_PARSED = WeighedCache[tuple[str, int], tuple[Mapping[str, Any], RunConfiguration]](PARSED_BYTES_MAX)
"""By run and number of the revision. Another database of this process may have other runs of the same ids, so that an
entry holds for its own spec only."""


def configuration_in(revision: Revision) -> RunConfiguration:
    """Return the configuration of a revision. It is parsed once, since a revision never changes."""
    known = _PARSED.get((revision.run_id, revision.number))
    if known is not None and (known[0] is revision.spec or known[0] == revision.spec):
        return known[1]
    return remember(revision, configuration_of(revision.spec["configuration"]))


def remember(revision: Revision, configuration: RunConfiguration) -> RunConfiguration:
    """Keep the configuration that a revision was made of, so that it is not parsed again; returns it."""
    weight = PARSED_BYTES + 2 * len(json.dumps(revision.spec, default=str))
    _PARSED.put((revision.run_id, revision.number), (revision.spec, configuration), weight)
    return configuration


def demand_of(configuration: RunConfiguration) -> Demand:
    """Return the requirements of each job for its machine."""
    resources = configuration.resources or Resources()
    written = resources.model_fields_set
    return Demand(
        cpus=_bounds(resources.cpu, "cpu" in written),
        memory_mib=_memory(resources.memory, "memory" in written),
        disk_mib=_memory(resources.disk.size if resources.disk else None, "disk" in written),
        arch=resources.cpu.arch and str(resources.cpu.arch),
        gpu=None if resources.gpu is None or resources.gpu.count.max == 0 else _gpu_demand_of(resources.gpu),
        backends=tuple(configuration.backends or ()),
        regions=tuple(configuration.regions or ()),
        instance_types=tuple(configuration.instance_types or ()),
        max_price=configuration.max_price,
        spot=str(configuration.spot_policy or "on-demand"),
        reservation=configuration.reservation,
        fleets=_fleets(configuration),
        instance_name=configuration.instance_name,
        reuse_only=configuration.creation_policy is CreationPolicy.REUSE,
        container=_container_wishes(configuration, resources),
        container_optional=any(volume.optional for volume in configuration.volumes),
        python=configuration.python,
        idle_duration_s=_idle_duration_s(configuration),
    )


def _container_wishes(configuration: RunConfiguration, resources: Resources) -> tuple[str, ...]:
    auth = configuration.registry_auth
    asked = {
        "image": configuration.image,
        "registry_auth": auth and auth.username,
        "entrypoint": configuration.entrypoint,
        "user": configuration.user,
        "privileged": configuration.privileged and "true",
        "nvcc": configuration.nvcc and "true",
        "volumes": ", ".join(str(one) for one in configuration.volumes if one.is_on_instance and not one.optional),
        "working_dir": configuration.working_dir if isabs(configuration.working_dir or "") else None,
        "shm_size": resources.shm_size,
        "files": ", ".join(file.path for file in configuration.files if isabs(file.path)),
        "repos": ", ".join(repo.path for repo in configuration.repos if isabs(repo.path)),
    }
    return tuple(f"`{field}: {value}`" for field, value in asked.items() if value)


def _fleets(configuration: RunConfiguration) -> tuple[str, ...]:
    return tuple(configuration.fleets or ([configuration.pool_name] if configuration.pool_name else ()))


def _idle_duration_s(configuration: RunConfiguration) -> float | None:
    if configuration.termination_policy is TerminationPolicy.DONT_DESTROY:
        return None
    later_spelling = "idle_duration" in configuration.model_fields_set
    return configuration.idle_duration if later_spelling else configuration.termination_idle_time


def _gpu_demand_of(gpu: GPU) -> GpuDemand:
    return GpuDemand(
        count=_bounds(gpu.count, True),
        vendor=None if gpu.vendor is None else str(gpu.vendor),
        names=tuple(gpu.name or ()),
        memory_mib=None if gpu.memory is None else _memory(gpu.memory, True),
        total_memory_mib=None if gpu.total_memory is None else _memory(gpu.total_memory, True),
        compute_capability=None if gpu.compute_capability is None else str(gpu.compute_capability),
    )


def _bounds(range: Range[int], written: bool) -> Bounds:
    return Bounds(range.min, range.max, written)


def _memory(range: Range[Memory] | None, written: bool) -> Bounds:
    if range is None:
        return Bounds(None, None, written)
    return Bounds(_mib(range.min), _mib(range.max), written)


def _mib(memory: Memory | None) -> float | None:
    return None if memory is None else memory.mib


def retry_policy_of(configuration: RunConfiguration) -> RetryPolicy | None:
    """When a failed run is to be tried again; None for never."""
    retry = configuration.retry or configuration.retry_policy
    if not retry:
        return None
    duration = None if retry.duration is None else timedelta(seconds=retry.duration)
    return RetryPolicy(frozenset(str(event) for event in retry.on_events), duration)


def inactivity_duration_of(configuration: RunConfiguration) -> int | None:
    """Return the seconds that the run's job may be without a connected user; None without limit."""
    return configuration.inactivity_duration if isinstance(configuration, DevEnvironment) else None


SERVICE = "service"
"""The type of the runs whose jobs live their own lives."""


def not_built_yet(configuration: RunConfiguration) -> Iterator[str]:
    """Yield what a configuration asks for that no part of dstack can do yet: it is refused, never ignored."""
    network_volumes = [str(volume) for volume in configuration.volumes if not volume.is_on_instance]
    foreign_fleets = [name for name in configuration.fleets or () if "/" in name]
    asked = {
        f"attach network volumes (`volumes: {', '.join(network_volumes)}`)": network_volumes,
        "run Docker inside a job (`docker: true`)": configuration.docker,
        "choose availability zones (`availability_zones`)": configuration.availability_zones,
        "choose instances by a list (`instances`)": configuration.instances,
        f"use fleets of other projects (`fleets: {', '.join(foreign_fleets)}`)": foreign_fleets,
        "leave the files that an image has at a repo's path (`if_exists: skip`)": any(
            isabs(repo.path) and repo.if_exists == "skip" for repo in configuration.repos
        ),
        "clone all branches (`single_branch: false`)": configuration.single_branch is False,
    }
    yield from (text for text, is_asked in asked.items() if is_asked)
    match configuration:
        case DevEnvironment(ide=ide, version=str()) if ide != "vscode":
            yield f"install the server of a given version of {ide or 'no editor'} (`version`)"
        case Service():
            yield from _not_built_of_services(configuration)


def _not_built_of_services(service: Service) -> Iterator[str]:
    if service.gateway:
        yield "publish services by a gateway (`gateway`)"
    if service.router is not None:
        yield "route requests by their content (`router`)"
