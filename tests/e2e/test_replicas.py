"""Several real servers on a real PostgreSQL database, killed again and again: every job runs once, none is lost."""

import itertools
import os
import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.home import Home, wait_for
from tests.patience import PATIENCE_S
from tests.s3 import S3Server

TOKEN = "the-token-of-all-replicas"
TIMEOUT_S = 1000


class Replicas:
    """Servers on one database, and users who ask any of them."""

    def __init__(self, home: Home, url: str) -> None:
        self._home = home
        self._turn = itertools.count()
        self.living: list[tuple[subprocess.Popen[str], httpx.Client]] = []
        home.env |= {
            "DSTACK_DATABASE_URL": url,
            "DSTACK_SERVER_ADMIN_TOKEN": TOKEN,
            "DSTACK_LOCAL_BACKEND": "1",
            "DSTACK_SERVER_DIR": str(home.data),
        }

    def start(self) -> None:
        """One more."""
        process, url = self._home.start_server()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        client = httpx.Client(base_url=f"{url}/api/projects/main", headers=headers, timeout=PATIENCE_S, trust_env=False)
        self.living.append((process, client))

    def kill(self, number: int) -> None:
        """Kill -9 of one."""
        process, client = self.living.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        client.close()

    def ask(self, method: str, path: str, **kwargs: Any) -> Any:
        """What any of them answers, the next one where one has just been killed."""
        for _ in range(1000):
            living = list(self.living)
            _, client = living[next(self._turn) % len(living)]
            try:
                answer = client.request(method, path, **kwargs)
            except (httpx.TransportError, RuntimeError):
                continue
            assert answer.status_code < 500, answer.text
            return answer.raise_for_status().json()
        raise AssertionError("no server answers")

    def runs(self) -> list[dict[str, Any]]:
        """All runs there are."""
        found: list[dict[str, Any]] = []
        before = None
        while True:
            page = self.ask("GET", "/runs", params={"all": True, **({"before": before} if before else {})})
            found += page["runs"]
            before = page["next"]
            if before is None:
                return found

    def log(self, name: str) -> str:
        """What a run has printed."""
        _, client = self.living[next(self._turn) % len(self.living)]
        return client.get(f"/runs/{name}/logs").raise_for_status().text

    def close(self) -> None:
        """End all of them in good order, as an operator would."""
        for process, client in self.living:
            client.close()
            process.send_signal(signal.SIGTERM)
        for process, _ in self.living:
            assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)


@pytest.fixture
def replicas(home: Home, postgres_url: str, s3: S3Server) -> Iterator[Replicas]:
    home.env |= s3.settings()
    replicas = Replicas(home, postgres_url)
    replicas.start()
    replicas.start()
    yield replicas
    replicas.close()


def submit(replicas: Replicas, name: str, script: str) -> dict[str, Any]:
    configuration = {"type": "task", "name": name, "commands": [script]}
    run: dict[str, Any] = replicas.ask(
        "POST", "/runs", json={"configuration": configuration}, headers={"Idempotency-Key": name}
    )
    return run


def test_any_server_serves_any_request(home: Home, replicas: Replicas) -> None:
    gate = home.gate()
    submit(replicas, "hello", f"echo one; read line <{gate}; echo two")
    (_, first), (_, second) = replicas.living
    for client in (first, second):
        wait_for("the run to run", lambda client=client: client.get("/runs/hello").json()["status"] == "running")  # type: ignore[misc]
    read = [Following(client, "/runs/hello/logs?follow=true") for client in (first, second)]
    home.open_gate()
    assert [one.result() for one in read] == [b"one\ntwo\n"] * 2
    for client in (first, second):
        wait_for("its end", lambda client=client: client.get("/runs/hello").json()["status"] == "done")  # type: ignore[misc]


class Following:
    """Reads a stream to its end in a thread."""

    def __init__(self, client: httpx.Client, path: str) -> None:
        self._read = b""
        self._thread = threading.Thread(target=self._follow, args=(client, path))
        self._thread.start()

    def _follow(self, client: httpx.Client, path: str) -> None:
        with client.stream("GET", path) as answer:
            self._read = answer.read()

    def result(self) -> bytes:
        """All that came."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self._read


def test_of_60_jobs_each_runs_once_while_servers_are_killed(home: Home, replicas: Replicas) -> None:
    run_all_while_servers_die(home, replicas, random.Random(1), jobs=60, kill_after=15)


@pytest.mark.deep
@pytest.mark.timeout(TIMEOUT_S + 200)
def test_of_500_jobs_each_runs_once_while_servers_are_killed(home: Home, replicas: Replicas, seed: int) -> None:
    run_all_while_servers_die(home, replicas, random.Random(seed), jobs=500, kill_after=20)


def run_all_while_servers_die(
    home: Home, replicas: Replicas, chance: random.Random, *, jobs: int, kill_after: int
) -> None:
    """Run many jobs, and kill one of the servers whenever so many more have run."""
    ran = home.path / "ran"
    ran.touch()
    moments = range(kill_after, jobs, kill_after)
    killed = []

    def kill() -> None:
        for moment in moments:
            wait_for(f"{moment} jobs to run", lambda moment=moment: len(ran.read_text().split()) >= moment)  # type: ignore[misc]
            replicas.kill(chance.randrange(len(replicas.living)))
            killed.append(moment)
            replicas.start()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for number in range(jobs):
            submit(replicas, f"run-{number}", f"echo {number} | tee -a {ran}")
        ended = statuses_once(replicas, lambda found: len(found) == jobs and set(found.values()) == {"done"})
    finally:
        killer.join()
    assert Counter(ended.values()) == {"done": jobs}
    assert Counter(ran.read_text().split()) == Counter(str(number) for number in range(jobs))
    assert {number: replicas.log(f"run-{number}") for number in range(jobs)} == {
        number: f"{number}\n" for number in range(jobs)
    }
    assert killed == list(moments)


def statuses_once(replicas: Replicas, condition: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """The runs' statuses once the condition holds, or after too long."""
    found: dict[str, str] = {}
    over = threading.Event()
    for _ in range(TIMEOUT_S):
        found = {run["name"]: run["status"] for run in replicas.runs()}
        if condition(found):
            break
        over.wait(1)
    return found


def test_a_server_on_postgres_needs_a_token_that_all_share(home: Home, postgres_url: str) -> None:
    home.env |= {"DSTACK_DATABASE_URL": postgres_url}
    result = home.cli("server", "--port", "0")
    assert result.returncode == 1
    assert "DSTACK_DATABASE_URL is set, and DSTACK_SERVER_ADMIN_TOKEN is not" in result.stderr


@pytest.mark.parametrize(
    "url, said",
    [
        ("mysql://there/db", "DSTACK_DATABASE_URL is not the address of a PostgreSQL database"),
        ("postgresql://ada:secret@127.0.0.1:1/db", "cannot be used: connection"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_message(home: Home, url: str, said: str) -> None:
    home.env |= {"DSTACK_DATABASE_URL": url, "DSTACK_SERVER_ADMIN_TOKEN": TOKEN}
    result = home.cli("server", "--port", "0")
    assert result.returncode == 1
    assert said in result.stderr and "Traceback" not in result.stderr and "secret" not in result.stderr
    assert os.path.exists(home.path)
