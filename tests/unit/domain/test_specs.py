"""What a configuration asks for reaches the engine, or the machines that cannot give it say so."""

from datetime import timedelta
from typing import Any

import pytest

from dstack.domain.offers import Demand, misfits
from dstack.domain.retries import RetryPolicy
from dstack.domain.specs import demand_of, retry_policy_of
from dstack.spec.parse import configuration_of
from dstack.spec.task import Task
from tests.making import HERE


def asked(**fields: Any) -> Demand:
    return demand_of(configuration_of({"type": "task", "commands": ["true"], **fields}))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": "ubuntu"}, "image: asked ubuntu, has no container engine"),
        ({"volumes": ["/a:/b"]}, "volumes: asked /a:/b, has no container engine"),
        ({"privileged": True}, "privileged: asked true, has no container engine"),
        ({"user": "1000"}, "user: asked 1000, has no container engine"),
        ({"entrypoint": "sh -c"}, "entrypoint: asked sh -c, has no container engine"),
        (
            {"registry_auth": {"username": "me", "password": "s3cret"}},
            "registry_auth: asked me, has no container engine",
        ),
        ({"python": "3.12"}, "python: asked 3.12, has none, has no container engine"),
        ({"nvcc": True}, "nvcc: asked true, has no container engine"),
        ({"resources": {"shm_size": "8GB"}}, "shm_size: asked 8GB, has no container engine"),
        ({"reservation": "cr-1"}, "reservation: asked cr-1, is in none"),
        ({"instance_name": "big"}, "instance_name: asked big, has no name"),
        ({"pool_name": "gpus"}, "fleets: asked gpus, is in default"),
        ({"fleets": ["gpus", "more"]}, "fleets: asked gpus, more, is in default"),
        ({"files": ["/etc/hosts", "a:b"]}, "files: asked /etc/hosts, has no container engine"),
        ({"resources": {"cpu": 64}}, "cpu: asked 64, has 4"),
        ({"resources": {"memory": "64GB.."}}, "memory: asked 64GB.., has 16GB"),
        ({"resources": {"disk": "1TB.."}}, "disk: asked 1TB.., has 48.8GB"),
        ({"resources": {"gpu": "A100:2"}}, "gpu: asked 2 A100, has none"),
        ({"backends": ["aws"]}, "backends: asked aws, is local"),
        ({"spot_policy": "spot"}, "spot_policy: asked spot, is on-demand"),
    ],
)
def test_what_this_machine_cannot_give_is_refused_and_never_ignored(fields: dict[str, Any], reason: str) -> None:
    assert list(misfits(asked(**fields), HERE)) == [reason]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"privileged": False, "nvcc": False, "volumes": [], "pool_name": "default"},
        {"creation_policy": "reuse"},
        {"nodes": 3},
        {"spot_policy": "auto", "max_price": 0.01},
        {"resources": {"gpu": 0}},
        {"resources": {"gpu": "..2"}},
        {"resources": {"disk": None}},
    ],
)
def test_what_this_machine_can_give_fits(fields: dict[str, Any]) -> None:
    assert list(misfits(asked(**fields), HERE)) == []


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
    assert retry_policy_of({"configuration": {"type": "task", "commands": ["true"], spelling: written}}) == policy


def test_every_field_of_a_task_has_been_thought_of() -> None:
    """A new field fails here until somebody decides what it does, or that machines without it refuse it."""
    refused = {"image", "volumes", "privileged", "user", "entrypoint", "registry_auth", "python", "nvcc"}
    refused |= {"reservation", "instance_name", "pool_name", "fleets"}
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
    assert set(Task.model_fields) == refused | placed | kept | run
