"""What it costs to have nothing to do: processor and memory of the server, and of its agent."""

import subprocess
import sys
from pathlib import Path

from bench.figures import Figure, Goal
from bench.home import agent_pids, server_pid
from bench.processes import cpu_s, family, rest, rss_mb
from dstack.api import Client

SETTLING_S = 3.0
WATCHED_S = 20.0


def measure_idleness(client: Client, server: Path) -> list[Figure]:
    """Watch the server with this data folder, and its agent, while nobody asks them for anything."""
    client.runs.list()  # starts the server where nothing has yet
    servers = [server_pid(server)]
    agents = [pid for agent in agent_pids(server) for pid in family(agent)]
    rest(SETTLING_S)
    before = cpu_s(servers), cpu_s(agents)
    rest(WATCHED_S)
    server_percent, agent_percent = (
        (after - start) / WATCHED_S * 100 for start, after in zip(before, (cpu_s(servers), cpu_s(agents)), strict=True)
    )
    bare_mb = bare_rss_mb()
    return [
        Figure("idle_cpu", server_percent, "% of a core", Goal(1, "% of a core")),
        Figure("idle_cpu_agent", agent_percent, "% of a core"),
        Figure("idle_rss", rss_mb(servers), "MB", Goal(120, "MB"), bare_mb),
        Figure("idle_rss_agent", rss_mb(agents), "MB", baseline=bare_mb),
    ]


def bare_rss_mb() -> float:
    """Return the memory of a Python that does nothing, in megabytes (10^6 bytes)."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        megabytes = rss_mb([bare.pid])
        bare.communicate(b"\n")
    return megabytes
