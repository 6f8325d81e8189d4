"""A service scales with its requests, from zero and back: none is lost, whatever is killed meanwhile."""

import os
import signal
import threading
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.home import Home, wait_for
from tests.e2e.served import Served, processes

QUICK = {"metric": "rps", "target": 20, "scale_up_delay": 0, "scale_down_delay": 5, "window": 5}


class Asking(threading.Thread):
    """One request, and its answer."""

    def __init__(self, served: Served, path: str = "/", method: str = "GET") -> None:
        super().__init__()
        self._served, self._path, self._method = served, path, method
        self.status, self.body = 0, ""
        self.start()

    def run(self) -> None:
        try:
            self.status, self.body = self._served.load().ask(self._method, self._path)
        except OSError as error:
            self.body = repr(error)


def scaling(home: Home, **fields: Any) -> Served:
    """Return a service that is at zero."""
    served = processes(home, **{"replicas": "0..3", "scaling": QUICK, **fields})
    served.apply()
    assert served.jobs() == set()
    return served


def held(served: Served) -> int:
    """Return how many requests wait for a replica."""
    with closing(served.client()) as client:
        run = client.runs.get("web")
        assert run is not None and run.view.service is not None and run.view.service.traffic is not None
        return run.view.service.traffic.held


@pytest.mark.server("own")
def test_no_request_fails_from_zero_to_many_replicas_and_back_to_zero(home: Home) -> None:
    served = scaling(home)
    with served.load().running() as load:
        wait_for("all replicas", lambda: len(load.seen()) == 3)
        assert load.failures == []
        home.kill_server()
        load.go_on()
    assert load.failures == []
    before = served.jobs()
    long_ones = [Asking(served, "/held") for _ in range(6)]
    wait_for("the long requests", lambda: len(list((home.path / "held").iterdir())) == 3)
    wait_for("fewer replicas", lambda: draining(served) == 2)
    assert served.jobs() == before, "those with requests live on"
    (home.path / "held" / "open").touch()
    for asking in long_ones:
        asking.join()
    assert [asking.status for asking in long_ones] == [200] * 6
    wait_for("no replica", lambda: served.jobs() == set())
    history = home.cli("event", "--run", "web").stdout
    for change in ("replicas 0 → ", " → 3: ", " → 1: ", "replicas 1 → 0: no requests for "):
        assert change in history, history


def draining(served: Served) -> int:
    """Return how many replicas finish their requests."""
    with closing(served.client()) as client:
        run = client.runs.get("web")
        assert run is not None
        return sum(job.draining for job in run.view.jobs if not job.status.is_finished())


@pytest.mark.server("own")
def test_request_at_zero_is_answered_though_server_data_plane_and_replica_are_killed(home: Home) -> None:
    served = scaling(home)
    closed = home.path / "held" / "closed"
    closed.touch()
    asking = [Asking(served, method=method) for method in ("GET", "POST") for _ in range(4)]
    wait_for("the requests", lambda: held(served) == 8)
    [data_plane] = home.data_planes()
    os.kill(data_plane, signal.SIGKILL)
    wait_for("the next data plane", lambda: home.data_planes() not in ([], [data_plane]))
    asking.append(Asking(served))
    wait_for("all requests there", lambda: held(served) == 9)  # the earlier ones were given back before it came
    home.kill_server()
    wait_for("the starting replica", lambda: len(home.processes_of_jobs()) > 0)
    for pid in home.processes_of_jobs():
        os.kill(pid, signal.SIGKILL)
    closed.unlink()
    for one in asking:
        one.join()
    assert [one.status for one in asking] == [200] * 9, [one.body for one in asking]
    assert len(served.jobs()) == 1, "one replica is enough"
