"""The load: jobs end on the hosts, and new ones arrive at both servers, at a steady pace."""

import http
import json
import threading
import time
from dataclasses import dataclass, field

from bench.processes import rest
from bench.replicas.market import PLACED_EACH, configuration
from bench.replicas.world import TOKEN, Replicas

A_SECOND = 10
"""So many jobs end in each second, and so many arrive."""
LOOK_EVERY_S = 0.25


@dataclass(slots=True)
class Seen:
    """What was seen from outside during the load."""

    began_s: float
    running: int
    """The jobs that ran when it began."""
    submits_s: list[float] = field(default_factory=list)
    ended: int = 0
    moves: int = 0
    """The changes of owner or epoch of a shard."""
    over_s: float = 0.0
    _owned: dict[int, tuple[str | None, int]] = field(default_factory=dict)

    def look(self, owned: dict[int, tuple[str | None, int]]) -> None:
        """Compare the owners of shards with those of the last look."""
        if self._owned:
            self.moves += sum(self._owned[shard] != owner for shard, owner in owned.items())
        self._owned = owned


def under_load(replicas: Replicas, seconds: float) -> Seen:
    """Return what was seen while jobs ended and arrived."""
    seen = Seen(time.monotonic(), replicas.tell_hosts()["running"])
    is_over = threading.Event()
    arrivals = [
        threading.Thread(target=_submit, args=(replicas, server, seen, is_over), daemon=True)
        for server in range(len(replicas.servers))
    ]
    for one in arrivals:
        one.start()
    while (passed_s := time.monotonic() - seen.began_s) < seconds:
        due = int(passed_s * A_SECOND) - seen.ended
        running = replicas.tell_hosts()["running"]
        if due > 0 and running:
            seen.ended += len(replicas.tell_hosts(end=min(due, running))["ended"])
        seen.look(replicas.shards())
        rest(LOOK_EVERY_S)
    is_over.set()
    for one in arrivals:
        one.join()
    seen.over_s = time.monotonic()
    return seen


def _submit(replicas: Replicas, server: int, seen: Seen, is_over: threading.Event) -> None:
    """Submit runs to one server until it is over, each after its predecessor's answer."""
    connection = replicas.connection(server)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    pace = A_SECOND / len(replicas.servers)
    number = server
    while not is_over.is_set():
        body = json.dumps({"configuration": configuration(PLACED_EACH * number)})
        asked_s = time.monotonic()
        connection.request("POST", "/api/projects/main/runs", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == http.HTTPStatus.CREATED, content
        seen.submits_s.append(time.monotonic() - asked_s)
        number += len(replicas.servers)
        is_over.wait(max(0.0, seen.began_s + number / len(replicas.servers) / pace - time.monotonic()))
    connection.close()
