"""What a command costs beside its work: the requests that it sends, and the modules that it loads."""

import json
import sys

import pytest

from tests.e2e.home import Home

pytestmark = pytest.mark.server("shared")

HTTP_LIBRARIES = {"httpx", "h11", "requests", "urllib.request", "certifi"}
TUNNEL = {"asyncssh"}
PYDANTIC = {"pydantic", "pydantic_core"}
SPEC = {"dstack.spec.task", "dstack.spec.parse", "dstack.spec.base", "yaml", "cronsim"}
UNREAD = HTTP_LIBRARIES | TUNNEL | PYDANTIC | SPEC | {"asyncio", "subprocess", "ctypes"}
"""Modules of no use to a command that only reads."""

PROGRAM = """
import json, sys
from dstack.api import _http
from dstack.cli.main import main

requests, connections = [], []
send, opened = _http.Connections.send, _http._opened

def counted_send(self, method, url, target, **rest):
    requests.append(f"{method} {target.partition('?')[0].rpartition('/')[2]}")
    return send(self, method, url, target, **rest)

def counted_opened(*args):
    connections.append(args)
    return opened(*args)

_http.Connections.send, _http._opened = counted_send, counted_opened
code = main(sys.argv[1:])
print(json.dumps({"requests": requests, "connections": len(connections), "modules": sorted(sys.modules)}))
sys.exit(code)
"""


def cost(home: Home, *args: str) -> tuple[list[str], int, set[str]]:
    """Run a command that succeeds; returns its requests, the number of its connections, and its modules."""
    result = home.run_program(sys.executable, "-c", PROGRAM, *args)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    return told["requests"], told["connections"], set(told["modules"])


def test_each_command_sends_few_requests_and_loads_what_it_uses(home: Home) -> None:
    home.write("run.yml", "type: task\nname: one\ncommands: ['true']\n")

    requests, connections, modules = cost(home, "apply", "-y", "-f", "run.yml")
    # The way in is asked for where the job runs for longer; its log is asked for until all of it is there.
    once = [request for request in requests if request not in ("POST access", "GET logs")]
    first = ["POST configurations", "GET repos", "POST plan", "POST runs", "GET events"]
    assert once[:5] == first and len(once) <= 6, requests
    assert len(requests) <= 9 and connections <= 2, requests
    assert modules & (HTTP_LIBRARIES | TUNNEL | PYDANTIC | (SPEC - {"yaml"})) == set()

    requests, connections, modules = cost(home, "ps")
    assert (requests, connections) == (["GET runs"], 1)
    assert modules & (UNREAD | {"logging"}) == set()

    requests, connections, modules = cost(home, "logs", "one")
    assert (len(requests), requests[-1], connections) == (2, "GET logs", 1)
    assert modules & UNREAD == set()

    others = (["event"], ["audit"], ["ps", "-a", "--json"], ["stop", "one"], ["secret", "set", "A", "b"])
    for arguments in others:
        _, _, modules = cost(home, *arguments)
        assert modules & UNREAD == set(), arguments
