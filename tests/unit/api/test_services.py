"""The URLs of a service as a program sees them."""

from typing import Any

from dstack.api import Client

from .conftest import FakeServer
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
