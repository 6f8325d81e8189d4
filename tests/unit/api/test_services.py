"""The URLs of a service as a program sees them."""

import json
from typing import Any

import pytest

from dstack.api import Client, Service
from dstack.errors import ClientError

from .conftest import Answer, FakeServer
from .test_runs import AT, OneRun, client, one

__all__ = ["client", "one"]

SERVICE: dict[str, Any] = {
    "url": "/proxy/services/main/hello/",
    "auth": True,
    "model": {"name": "llama", "url": "/proxy/models/main"},
}


def test_urls_begin_with_that_of_the_clients_server(client: Client, one: OneRun, server: FakeServer) -> None:
    one.run |= {"type": "service", "service": SERVICE}
    run = client.runs.get("hello")
    assert run is not None and run.service_model is not None
    assert run.service_url == f"{server.url}/proxy/services/main/hello/"
    assert (run.service_model.name, run.service_model.url) == ("llama", f"{server.url}/proxy/models/main")
    assert run.view.service is not None and run.view.service.model == run.service_model
    assert (run.view.service.url, run.view.service_url) == (run.service_url, run.service_url)


def test_service_that_has_ended_has_no_url(client: Client, one: OneRun) -> None:
    one.run |= {"type": "service", "service": SERVICE | {"model": None}, "status": "failed", "finished_at": AT}
    run = client.runs.get("hello")
    assert run is not None and (run.service_url, run.service_model) == (None, None)


def test_other_runs_have_none(client: Client, one: OneRun) -> None:
    run = client.runs.get("hello")
    assert run is not None and (run.service_url, run.service_model, run.view.service) == (None, None, None)


def test_command_in_a_service_without_replicas_is_refused_with_what_starts_one(client: Client, one: OneRun) -> None:
    empty = SERVICE | {"model": None, "waits_for": "the next request starts a replica"}
    one.run |= {"type": "service", "service": empty, "status": "running"}
    one.jobs.clear()
    run = client.runs.get("hello")
    assert run is not None
    with pytest.raises(ClientError, match="No replica of `hello` runs: the next request starts a replica"):
        run.exec(["true"])


def test_plan_of_a_service_that_begins_without_replicas_has_the_job_of_its_first_one(
    client: Client, server: FakeServer, one: OneRun
) -> None:
    plan: dict[str, Any] = {
        "project": "main",
        "user": "me",
        "run_name": None,
        "spec": {},
        "offers": [],
        "offers_total": 3,
    }
    body = json.dumps({**plan, "max_price": 4.0, "refusals": []}).encode()
    server.answer = lambda asked: Answer(body=body)
    scaled = Service(port=80, commands=["x"], replicas="0..4", scaling={"metric": "rps", "target": 1})
    (planned,) = client.runs.get_plan(scaled).job_plans
    assert (planned.replica, planned.node, planned.total_offers) == (0, 0, 3)
