"""A server of a job that listens at `::1` alone is reached like any other."""

import sys

from dstack.api import Task
from tests.e2e.home import Home, wait_for
from tests.e2e.test_attach import free_ports, is_open
from tests.e2e.test_attach import get as get_from

SERVER = """\
import http.server, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
print("serving", flush=True)
Server(("::1", {port}), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_job_that_listens_at_the_other_loopback_alone_is_reached_directly_and_by_a_forward(home: Home) -> None:
    direct, port, local = free_ports(3)
    commands = [f"{sys.executable} -u - <<'END' &\n{SERVER.format(port=one)}END" for one in (direct, port)]
    task = Task(commands=[*commands, "wait"], ports=[str(direct), f"{local}:{port}"])
    run = home.client().runs.submit(run_name="six", configuration=task)
    run.attach()
    for one in (direct, local):
        wait_for(f"an answer at port {one}", lambda one=one: _answers(one))  # type: ignore[misc]
    run.detach()
    assert not is_open(direct) and not is_open(local)
    run.stop()


def _answers(port: int) -> bool:
    try:
        return b"Directory listing" in get_from(port)
    except OSError:
        return False
