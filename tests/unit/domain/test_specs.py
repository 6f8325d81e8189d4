"""What a configuration asks for reaches the engine, or the machines that cannot give it say so."""

import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.objects import Revision
from dstack.domain.offers import Demand, demand_of_json, demand_to_json, share_of
from dstack.domain.retries import RetryPolicy
from dstack.domain.specs import configuration_in, demand_of, not_built_yet, retry_policy_of
from dstack.protocol.agent import Engine
from dstack.spec.parse import configuration_of
from dstack.spec.task import Task
from tests.making import HERE
from tests.unit.domain.scanning import reasons_of

HERE_X86 = replace(HERE, resources=replace(HERE.resources, arch="x86"))


def asked(**fields: Any) -> Demand:
    return demand_of(configuration_of({"type": "task", "commands": ["true"], **fields}))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": "ubuntu"}, "`image: ubuntu` needs a container, and there is no container engine"),
        ({"volumes": ["/a:/b"]}, "`volumes: /a:/b` needs a container, and there is no container engine"),
        ({"volumes": ["/a:/b:ro"]}, "`volumes: /a:/b:ro` needs a container, and there is no container engine"),
        ({"working_dir": "/app"}, "`working_dir: /app` needs a container, and there is no container engine"),
        ({"resources": {"cpu": "arm:2"}}, "cpu: asked arm, is x86"),
        ({"resources": {"cpu": "x86:64"}}, "cpu: asked 64, has 4"),
        ({"backends": ["vultr"]}, "backends: asked vultr, is local"),
        ({"privileged": True}, "`privileged: true` needs a container, and there is no container engine"),
        ({"user": "1000"}, "`user: 1000` needs a container, and there is no container engine"),
        ({"entrypoint": "sh -c"}, "`entrypoint: sh -c` needs a container, and there is no container engine"),
        (
            {"registry_auth": {"username": "me", "password": "s3cret"}},
            "`registry_auth: me` needs a container, and there is no container engine",
        ),
        (
            {"python": "3.12"},
            "`python: 3.12` (the machine has none) needs a container, and there is no container engine",
        ),
        (
            {"image": "a", "user": "1000"},
            "`image: a` and `user: 1000` need a container, and there is no container engine",
        ),
        ({"nvcc": True}, "`nvcc: true` needs a container, and there is no container engine"),
        ({"resources": {"shm_size": "8GB"}}, "`shm_size: 8GB` needs a container, and there is no container engine"),
        ({"reservation": "cr-1"}, "reservation: asked cr-1, has none"),
        ({"instance_name": "big"}, "instance_name: asked big, has no name"),
        ({"pool_name": "gpus"}, "fleets: asked gpus, is in default"),
        ({"fleets": ["gpus", "more"]}, "fleets: asked gpus, more, is in default"),
        ({"files": ["/etc/hosts", "a:b"]}, "`files: /etc/hosts` needs a container, and there is no container engine"),
        ({"resources": {"cpu": 64}}, "cpu: asked 64, has 4"),
        ({"resources": {"memory": "64GB.."}}, "memory: asked 64GB.., has 16GB"),
        ({"resources": {"disk": "1TB.."}}, "disk: asked 1TB.., has 48.8GB"),
        ({"resources": {"gpu": "A100:2"}}, "gpu: asked 2 A100, has none"),
        ({"backends": ["aws"]}, "backends: asked aws, is local"),
        ({"spot_policy": "spot"}, "spot_policy: asked spot, is on-demand"),
    ],
)
def test_what_this_machine_cannot_give_is_refused_and_never_ignored(fields: dict[str, Any], reason: str) -> None:
    assert reasons_of(asked(**fields), HERE_X86) == [reason]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"privileged": False, "nvcc": False, "volumes": [], "pool_name": "default"},
        {"creation_policy": "reuse"},
        {"nodes": 3},
        {"spot_policy": "auto", "max_price": 0.01},
        {"resources": {"gpu": 0}},
        {"resources": {"gpu": "none", "cpu": "x86:4"}},
        {"working_dir": "/workflow/src"},
        {"volumes": [{"instance_path": "/a", "path": "/b", "optional": True}]},
        {"resources": {"gpu": "..2"}},
        {"resources": {"disk": None}},
    ],
)
def test_what_this_machine_can_give_fits(fields: dict[str, Any]) -> None:
    assert reasons_of(asked(**fields), HERE_X86) == []


def test_machine_of_unknown_architecture_is_no_machine_of_a_wanted_one() -> None:
    assert reasons_of(asked(resources={"cpu": "arm:2"}), HERE) == ["cpu: asked arm, is of an unknown architecture"]


@pytest.mark.parametrize(("engine", "container"), [(None, False), (Engine("docker", "28", "x86_64"), True)])
def test_optional_volume_is_mounted_where_an_engine_can_and_left_out_elsewhere(
    engine: Engine | None, container: bool
) -> None:
    demand = asked(volumes=[{"instance_path": "/a", "path": "/b", "optional": True}])
    offer = replace(HERE, resources=replace(HERE.resources, engine=engine))
    assert share_of(demand, offer).container is container
    assert demand_of_json(demand_to_json(demand)) == demand


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"volumes": ["data:/data"]}, "attach network volumes (`volumes: data:/data`)"),
        ({"volumes": [{"name": ["ab", "cd"], "path": "/x"}]}, "attach network volumes (`volumes: ab,cd:/x`)"),
        (
            {"volumes": ["v-${{ dstack.node_rank }}:/x"]},
            "attach network volumes (`volumes: v-${{ dstack.node_rank }}:/x`)",
        ),
        ({"docker": True}, "run Docker inside a job (`docker: true`)"),
        ({"availability_zones": ["eu-west-1a"]}, "choose availability zones (`availability_zones`)"),
        ({"instances": ["one"]}, "choose instances by a list (`instances`)"),
        ({"fleets": ["main/team"]}, "use fleets of other projects (`fleets: main/team`)"),
        ({"single_branch": False}, "clone all branches (`single_branch: false`)"),
        (
            {"type": "dev-environment", "ide": "cursor", "version": "1.2"},
            "install the server of a given version of cursor (`version`)",
        ),
        ({"type": "service", "port": 80, "router": {"type": "sglang"}}, "route requests by their content (`router`)"),
    ],
)
def test_field_that_needs_a_missing_part_is_refused_by_name(configuration: dict[str, Any], words: str) -> None:
    body = {"type": "task", **configuration}
    commands = {} if body["type"] == "dev-environment" else {"commands": ["true"]}
    assert list(not_built_yet(configuration_of({**body, **commands}))) == [words]


@pytest.mark.parametrize(
    "configuration",
    [
        {"type": "task", "commands": ["true"], "docker": False, "setup": ["x"], "home_dir": "/root"},
        {"type": "task", "commands": ["true"], "nvcc": True, "python": "3.11"},
        {"type": "dev-environment", "ide": "vscode", "version": "1.96.0"},
    ],
)
def test_field_that_works_or_has_no_effect_is_not_refused(configuration: dict[str, Any]) -> None:
    assert list(not_built_yet(configuration_of(configuration))) == []


def test_reusing_machines_and_no_gpu_at_all_are_demands_too() -> None:
    assert asked(creation_policy="reuse").reuse_only
    assert not asked().reuse_only
    assert asked(resources={"gpu": 0}).gpu is None


@pytest.mark.parametrize(
    ("fields", "idle_duration_s"),
    [
        ({}, 300),
        ({"termination_idle_time": "1h"}, 3600),
        ({"idle_duration": "1h"}, 3600),
        ({"idle_duration": 0}, 0),
        ({"idle_duration": "off"}, None),
        ({"termination_idle_time": "off"}, None),
        ({"termination_policy": "dont-destroy"}, None),
        ({"termination_policy": "dont-destroy", "termination_idle_time": "1h"}, None),
        ({"termination_policy": "dont-destroy", "idle_duration": "off"}, None),
        ({"termination_policy": "destroy-after-idle", "idle_duration": "1m"}, 60),
    ],
)
def test_how_long_a_machine_may_stand_idle_has_an_old_and_a_new_spelling(
    fields: dict[str, Any], idle_duration_s: float | None
) -> None:
    assert asked(**fields).idle_duration_s == idle_duration_s


ALL = frozenset({"no-capacity", "interruption", "error"})


@pytest.mark.parametrize("spelling", ["retry", "retry_policy"])
@pytest.mark.parametrize(
    ("written", "policy"),
    [
        (True, RetryPolicy(ALL, timedelta(hours=1))),
        (False, None),
        ({"on_events": ["error"]}, RetryPolicy(frozenset({"error"}), timedelta(hours=1))),
        ({"duration": "off"}, RetryPolicy(ALL, None)),
        ({"duration": 0}, RetryPolicy(ALL, timedelta(0))),
    ],
)
def test_the_old_spelling_of_retry_acts_like_the_new(
    spelling: str, written: object, policy: RetryPolicy | None
) -> None:
    assert retry_policy_of(configuration_of({"type": "task", "commands": ["true"], spelling: written})) == policy


def test_every_field_of_a_task_has_been_thought_of() -> None:
    """A new field fails here until somebody decides what it does, or that machines without it refuse it."""
    refused = {"image", "volumes", "privileged", "user", "entrypoint", "registry_auth", "python", "nvcc"}
    refused |= {"reservation", "instance_name", "pool_name", "fleets"}
    refused |= {"docker", "availability_zones", "instances", "repos", "single_branch"}
    without_effect = {"setup", "home_dir"}
    placed = {"backends", "regions", "instance_types", "spot_policy", "max_price", "resources", "creation_policy"}
    kept = {"termination_policy", "termination_idle_time", "idle_duration", "retry", "retry_policy"}
    run = {"type", "name", "commands", "env", "ports", "nodes", "working_dir", "shell", "priority"}
    run |= {
        "max_duration",
        "stop_duration",
        "files",
        "tags",
        "schedule",
        "startup_order",
        "stop_criteria",
        "utilization_policy",
    }
    assert set(Task.model_fields) == refused | placed | kept | run | without_effect


def test_a_configuration_is_parsed_once_for_each_revision() -> None:
    spec = {"configuration": {"type": "task", "commands": ["one"]}}
    first = configuration_in(Revision("0-run", 1, spec))
    assert configuration_in(Revision("0-run", 1, copy.deepcopy(spec))) is first
    assert configuration_in(Revision("0-run", 2, spec)) is not first


def test_a_revision_of_another_database_with_the_same_run_and_number_is_parsed_for_itself() -> None:
    mine, theirs = ({"configuration": {"type": "task", "commands": [name]}} for name in ("mine", "theirs"))
    configuration_in(Revision("0-run", 1, mine))
    assert configuration_in(Revision("0-run", 1, theirs)).script().startswith("theirs")
