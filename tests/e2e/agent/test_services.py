"""Replicas of services under a real agent: their ports, their readiness, and the channels to them."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dstack.agent.paths import channels_path
from dstack.agent.runtimes.spawning import Spawner
from dstack.agent.serving import replicas, wrong_ports
from dstack.agent.serving.ports import FIRST, LAST
from dstack.hosts.channels import local, open_channel
from dstack.kit import channels
from dstack.protocol.agent import Container, JobReport, Probe, Serving
from tests.e2e.agent.agent_client import Agent, Client, J, connected, order_for
from tests.e2e.agent.test_damaged_files import OneHost, report_of, spawner, until
from tests.engines import SHELL_IMAGE, DockerEngine

__all__ = ["spawner"]

SERVER = """\
import http.server, os, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if pathlib.Path("down").exists() else 200)
        self.end_headers()
        self.wfile.write(os.environ["PORT"].encode())
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
HEALTH = Probe("/health", timeout_s=30.0, interval_s=0.05)


def serving(port: str = "$PORT") -> str:
    """The script of a server that is well unless there is a file `down`."""
    return f"cat >server.py <<'END'\n{SERVER}END\nexec {sys.executable} server.py {port}"


@contextmanager
def stranger() -> Iterator[int]:
    """A port at which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with stranger() as port:
        return port


async def reported(client: Client, job_id: str, holds: Callable[[JobReport], object]) -> JobReport:
    """Wait until the latest report of a job is as it should be."""
    await client.until(lambda: job_id in client.reports and holds(client.reports[job_id]))
    return client.reports[job_id]


def is_ready(report: JobReport) -> bool:
    return report.ready is True


async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Return the body of a server's answer."""
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    received = await reader.read()
    writer.close()
    return received.rpartition(b"\r\n\r\n")[2]


async def page_at(port: int) -> bytes:
    return await page(*await asyncio.open_connection("127.0.0.1", port))


async def test_replicas_of_one_host_are_given_ports_of_their_own_and_become_ready(agent: Agent) -> None:
    port = free_port()
    async with connected(agent) as client:
        await client.start(f"{J}-1", serving(), service=Serving(port))
        first = await reported(client, f"{J}-1", is_ready)
        await client.start(f"{J}-2", serving(), service=Serving(port, (HEALTH,)))
        second = await reported(client, f"{J}-2", is_ready)
        assert (first.port, first.unready_reason, first.address) == (port, "", "127.0.0.1")
        assert second.port is not None and FIRST <= second.port <= LAST
        assert [await page_at(one) for one in (port, second.port)] == [b"%d" % port, b"%d" % second.port]
        assert await client.call("stop", job_id=f"{J}-1", grace_s=0) is None
        assert (await client.report(f"{J}-1")).ready is None


async def test_failing_probe_takes_a_replica_out_until_it_succeeds_again(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, serving(), service=Serving(free_port(), (HEALTH,)))
        up = await reported(client, J, is_ready)
        down = Path(str(up.working_dir)) / "down"
        down.touch()
        out = await reported(client, J, lambda report: report.ready is False)
        assert out.unready_reason == "`GET /health`: it answered 503"
        down.unlink()
        assert (await reported(client, J, is_ready)).unready_reason == ""


async def test_port_and_readiness_of_a_replica_outlive_its_agent(agent: Agent) -> None:
    with stranger() as port:
        async with connected(agent) as client:
            await client.start(J, serving(), service=Serving(port, (HEALTH,)))
            before = await reported(client, J, is_ready)
            assert before.port not in (None, port), "somebody else has that one"
            agent.kill()
    agent.start()
    async with connected(agent) as client:
        assert (client.reports[J].port, client.reports[J].ready) == (before.port, True)
        down = Path(str(before.working_dir)) / "down"
        down.touch()
        await reported(client, J, lambda report: report.ready is False)


async def test_replica_that_ends_since_its_port_is_in_use_fails_with_the_port_and_its_user(agent: Agent) -> None:
    with stranger() as port:
        async with connected(agent) as client:
            await client.start(J, serving(str(port)), service=Serving(port))
            report = await client.report(J)
            given = client.reports[J].port
    assert (report.end, report.exit_code) == ("ports_binding_failed", 1)
    assert f"port {port} of the machine is in use by the process" in report.message
    assert f"this replica was given port {given}: make the program listen at `$PORT`" in report.message


async def test_replica_that_waits_at_another_port_fails_with_both_ports(
    tmp_path: Path, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "PORTS_EVERY_S", 0.05)
    monkeypatch.setattr(wrong_ports, "WAITS_FOR_S", 0.2)
    host, port, other = OneHost(tmp_path / "home", spawner), free_port(), free_port()
    async with host.agent() as jobs:
        await jobs.start(order_for(J, serving(str(other)), service=Serving(port)))
        await until(lambda: report_of(jobs, host.home.job(J)).state == "ended")
        report = report_of(jobs, host.home.job(J))
    failure = f"it listens at `{other}` and not at `$PORT`, which is {port}: make the program listen at `$PORT`"
    assert (report.end, report.message) == ("ports_binding_failed", failure)
    async with host.agent() as jobs:
        assert report_of(jobs, host.home.job(J)).message == failure, "the next agent reports the same"


@dataclass(frozen=True)
class Channel:
    socket_path: str
    job_id: str
    port: int


@pytest.fixture(params=["beside the engine", "in another network"])
def container_agent(
    request: pytest.FixtureRequest, tmp_path: Path, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Agent]:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    is_beside = request.param == "beside the engine"
    made = Agent(tmp_path / "home", inside=tuple(engine.network.inside()) if is_beside else ())
    made.start()
    yield made
    made.kill(signal.SIGKILL)
    for id in engine.containers():
        engine.docker("rm", "-f", id)


async def test_replica_in_a_container_is_reached_by_channels_wherever_it_listens(container_agent: Agent) -> None:
    path, container = channels_path(container_agent.home), Container(SHELL_IMAGE)
    script = "echo -n hello >index.html; exec httpd -f -p {}:$PORT"
    async with connected(container_agent) as client:
        for name, host in (("inner", "127.0.0.1"), ("open", "0.0.0.0")):
            probes = (replace(HEALTH, path="/index.html"),) if name == "open" else ()
            service = Serving(8000, probes)
            await client.start(f"{J}-{name}", script.format(host), container=container, service=service)
        inner, outer = [await reported(client, f"{J}-{name}", is_ready) for name in ("inner", "open")]
        assert (inner.port, outer.port, inner.address) == (8000, 8000, None)
        assert (outer.address is not None) == bool(container_agent.inside), "an address counts where it leads there"
        for report in (inner, outer):
            passed = await channels.connect(Channel(str(path), report.job_id, 8000))
            assert await page(*await asyncio.open_connection(sock=passed)) == b"hello"
            assert await page(*await open_channel(local(path), report.job_id, 8000)) == b"hello"
        with pytest.raises(channels.ChannelRefused, match="nothing listens at port 8001"):
            await open_channel(local(path), inner.job_id, 8001)
        for report in (inner, outer):
            assert await client.call("stop", job_id=report.job_id, grace_s=0) is None
            await client.report(report.job_id)
        with pytest.raises(channels.ChannelRefused, match="the job does not run on the machine"):
            await channels.connect(Channel(str(path), inner.job_id, 8000))
