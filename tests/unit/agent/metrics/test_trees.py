"""What the processes of a job use together."""

import os
import subprocess
import sys
import time
from pathlib import Path
from socket import socket
from typing import cast

import pytest

from dstack.agent.gpus.cards import Cards
from dstack.agent.metrics.trees import TICK_S, Process, owners, read_processes, usage_of
from dstack.agent.metrics.usage import Usage
from dstack.agent.paths import JobFolder, write_json
from dstack.agent.processes import MARKER
from dstack.agent.runtimes.process import ProcessRuntime
from dstack.kit.clock import SystemClock


def process(parent: int) -> Process:
    return Process(parent, 1.0, 1024.0)


@pytest.mark.parametrize(
    "parents, roots, owned",
    [
        ({1: 0, 10: 1, 11: 10, 12: 11, 20: 1}, {10: "a"}, {10: "a", 11: "a", 12: "a"}),
        ({1: 0, 10: 1, 11: 10, 20: 1, 21: 20}, {10: "a", 20: "b"}, {10: "a", 11: "a", 20: "b", 21: "b"}),
        ({1: 0, 10: 1, 11: 10, 12: 11}, {10: "outer", 11: "inner"}, {10: "outer", 11: "inner", 12: "inner"}),
        ({10: 11, 11: 10, 20: 1}, {20: "a"}, {20: "a"}),
        ({1: 0}, {10: "a"}, {}),
        ({11: 10}, {10: "gone"}, {11: "gone"}),
    ],
    ids=["below", "two jobs", "a job in a job", "a circle", "nobody", "an orphan whose parent went while we read"],
)
def test_whose_a_process_is(parents: dict[int, int], roots: dict[int, str], owned: dict[int, str]) -> None:
    assert owners({pid: process(parent) for pid, parent in parents.items()}, roots) == owned


def stat(name: str, parent: int, times: str, pages: int) -> str:
    fields = f"S {parent} 1 1 0 -1 4194304 0 0 0 0 {times} 20 0 1 0 100 9999999 {pages} 0"
    return f"7 ({name}) {fields}"


def test_times_are_those_of_a_process_and_of_what_it_waited_for(tmp_path: Path) -> None:
    for pid, text in {7: stat("a) S 99 (b", 3, "10 20 30 40", 256), 8: stat("zombie", 7, "5 5 0 0", 0)}.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(text)
    (tmp_path / "9").mkdir()  # it has ended while we read
    found = read_processes(tmp_path)
    assert {pid: (one.parent, round(one.cpu_s / TICK_S)) for pid, one in found.items()} == {7: (3, 100), 8: (7, 10)}


def test_shared_memory_counts_once_and_the_supervisor_not_at_all(tmp_path: Path) -> None:
    table = {pid: Process(1, 1.0, 4096.0) for pid in (7, 8, 9)}
    for pid in (7, 8):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "smaps_rollup").write_text("0-1 ---p 0 00:00 0 [rollup]\nRss: 4096 kB\nPss: 2048 kB\n")
    assert usage_of([7, 8], 7, table, tmp_path) == Usage(2.0, 2.0)
    assert usage_of([9], 0, table, tmp_path) == Usage(1.0, 4.0), "where that is not told, its whole size counts"


def test_the_time_of_children_that_have_ended_is_not_lost() -> None:
    """Real processes: three burn, one after the other, each waited for by its parent."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    code = (
        f"import subprocess, sys\nfor _ in range(3): subprocess.run([sys.executable, '-c', {burn!r}])\nprint(); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        table = read_processes()
        pids = owners(table, {parent.pid: "job"})
        usage = usage_of(pids, 0, table)
        assert usage.cpu_s is not None and usage.cpu_s >= 0.6
        assert usage.memory_mib is not None and 1 < usage.memory_mib < 100
    finally:
        parent.communicate(b"\n")


def test_one_that_nobody_has_waited_for_still_counts() -> None:
    pid = os.fork()
    if pid == 0:
        while time.process_time() < 0.1:
            pass
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        table = read_processes()
        assert owners(table, {os.getpid(): "job"}).get(pid) == "job"
        assert table[pid].cpu_s >= 0.05
    finally:
        os.waitpid(pid, 0)


def test_what_was_started_over_ssh_counts_though_it_is_not_below_the_supervisor(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / f"job-{os.getpid()}")
    folder.root.mkdir()
    sleep = [sys.executable, "-c", "input()"]
    guest = subprocess.Popen(sleep, stdin=subprocess.PIPE, env={MARKER: folder.job_id})
    supervisor = subprocess.Popen(sleep, stdin=subprocess.PIPE)
    write_json(folder.pid, {"pid": supervisor.pid, "started_at": 0.0})
    runtime = ProcessRuntime(cast(socket, None), SystemClock(), lambda: Cards(()))
    try:
        assert runtime.usage([folder])[folder.job_id].memory_mib == 0, "nobody has come in"
        folder.entered.touch()
        usage = runtime.usage([folder])[folder.job_id]
        assert usage.memory_mib is not None and usage.memory_mib > 1
    finally:
        for one in (guest, supervisor):
            one.communicate(b"\n")
