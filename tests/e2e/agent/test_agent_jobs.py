"""What a job does on a host, by a real agent and real processes."""

import os
import signal

import pytest

from dstack.agent.processes import marked
from dstack.protocol.agent import to_json
from dstack.protocol.files import CHUNK_BYTES, FileEntry, hash_of, pages_of, root_of
from tests.e2e.agent.agent_client import Agent, Client, J, connected, order_for
from tests.patience import PATIENCE_S

STUBBORN = """\
trap '' TERM
(trap '' TERM; setsid sh -c 'trap "" TERM; sleep 1000 & exec sleep 1000' &) &
(setsid sh -c 'while true; do (setsid sleep 1000 &); sleep 0.01; done' &)
echo up
"""
"""Double-forks, leaves its session, ignores SIGTERM, and forks all the time."""


async def ended_by_stop(client: Client, job_id: str, grace_s: float) -> None:
    await client.line(job_id, b"up")
    assert await client.call("stop", job_id=job_id, grace_s=grace_s) is None
    await client.report(job_id)


@pytest.mark.parametrize(
    ("script", "code", "number"),
    [
        ("true", 0, None),
        ("exit 7", 7, None),
        ("kill -9 $$", 137, 9),
        ("kill -SEGV $$", 139, 11),
        ("bash -c 'kill -9 $$'; exit $?", 137, None),
    ],
)
async def test_the_exit_code_and_signal_are_the_scripts(
    agent: Agent, script: str, code: int, number: int | None
) -> None:
    async with connected(agent) as client:
        await client.start(J, script)
        report = await client.logged(J)
    assert (report.end, report.exit_code, report.signal) == ("exited", code, number)
    assert report.started_at and report.ended_at and report.started_at <= report.ended_at


async def test_output_is_exact_with_any_bytes_and_no_newline_at_the_end(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, r"printf 'a\0\377\376b\n'; printf 'on stderr' >&2; printf '\nlast'")
        report = await client.logged(J)
    assert client.log_of(J) == b"a\0\xff\xfeb\non stderr\nlast"
    assert report.log_bytes == len(client.log_of(J))


async def test_fifty_megabytes_arrive_in_order_while_the_job_does_not_wait_for_the_reader(agent: Agent) -> None:
    count = 7_000_000
    async with connected(agent, acknowledges=False) as client:
        await client.start(J, f"seq 1 {count}")
        report = await client.report(J)
        assert len(client.log_of(J)) <= 2 << 20 < 50_000_000 < (report.log_bytes or 0)
        client.acknowledges = True
        client.send(t="log_ack", job_id=J, stream="job", offset=len(client.log_of(J)))
        client.send(t="log_ack", job_id=J, stream="agent", offset=len(client.log_of(J, "agent")))
        await client.logged(J)
    assert bytes(client.log_of(J)) == b"".join(b"%d\n" % number for number in range(1, count + 1))


async def test_following_again_starts_at_the_offset_asked_for(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "printf 0123456789")
        await client.logged(J)
    async with connected(agent, logs={(J, "job"): bytearray(b"01234")}) as again:
        again.follow(J)
        await again.until(lambda: again.log_of(J) == b"0123456789")


async def test_a_job_sees_its_own_environment_and_none_of_the_agents_secrets(
    tmp_path: object, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.kill(signal.SIGTERM)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("https_proxy", "http://proxy")
    agent.start()
    async with connected(agent) as client:
        await client.start(J, "env; ls -l /proc/self/fd; umask; pwd", env={"MINE": "yes"}, working_dir="sub/folder")
        await client.logged(J)
    text = client.log_of(J).decode()
    folder = agent.home / "jobs" / J / "files"
    lines = text.splitlines()
    for line in ("MINE=yes", "https_proxy=http://proxy", f"DSTACK_JOB_ID={J}", "PYTHONUNBUFFERED=1", "0022"):
        assert line in lines
    assert f"DSTACK_REPO_DIR={folder}" in lines
    assert f"DSTACK_WORKING_DIR={folder}/sub/folder" in lines and lines[-1] == f"{folder}/sub/folder"
    assert "hidden" not in text
    assert "socket:" not in text and "lock" not in text


async def test_the_agents_log_tells_what_it_did(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "exit 3")
        await client.logged(J)
    told = client.log_of(J, "agent").decode()
    for words in (f"accepted job {J} of run a-run", "started process", "exit code 3", "the end: exited"):
        assert words in told


async def test_stopping_ends_the_whole_tree_that_forks_and_ignores_sigterm(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, STUBBORN + "wait; sleep 1000")
        await ended_by_stop(client, J, grace_s=0.3)
        assert not marked(J)
    assert client.reports[J].end == "stopped"


async def test_no_grace_kills_at_once_and_grace_lets_a_job_clean_up(agent: Agent) -> None:
    script = "trap 'echo cleaned; exit 5' TERM; echo up; while true; do sleep 0.05; done"
    async with connected(agent) as client:
        await client.start(f"{J}-kind", script)
        await client.start(f"{J}-hard", script)
        await ended_by_stop(client, f"{J}-kind", grace_s=20)
        await ended_by_stop(client, f"{J}-hard", grace_s=0)
        await client.logged(f"{J}-kind")
        await client.logged(f"{J}-hard")
    kind, hard = client.reports[f"{J}-kind"], client.reports[f"{J}-hard"]
    assert (kind.end, kind.exit_code) == ("stopped", 5) and client.log_of(f"{J}-kind").endswith(b"cleaned\n")
    assert (hard.end, hard.exit_code, hard.signal, client.log_of(f"{J}-hard")) == ("stopped", 137, 9, b"up\n")


async def test_a_second_stop_can_shorten_the_grace(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "trap '' TERM; echo up; sleep 1000; sleep 1000")
        await client.line(J, b"up")
        assert await client.call("stop", job_id=J, grace_s=1000) is None
        assert await client.call("stop", job_id=J, grace_s=0) is None
        assert (await client.report(J)).signal == signal.SIGKILL


async def test_max_duration_ends_the_whole_tree(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, STUBBORN + "wait; sleep 1000", max_duration_s=0.5, stop_grace_s=0.2)
        report = await client.report(J)
        assert not marked(J)
    assert report.end == "max_duration"


@pytest.mark.parametrize("code", [0, 4])
async def test_a_script_that_ends_takes_its_daemons_with_it_and_keeps_its_code(agent: Agent, code: int) -> None:
    async with connected(agent) as client:
        await client.start(J, f"{STUBBORN} exit {code}", stop_grace_s=0.2)
        report = await client.report(J)
        assert not marked(J)
    assert (report.end, report.exit_code) == ("exited", code)


async def test_starting_twice_runs_once(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo once")
        assert await client.call("start", order=to_json(order_for(J, "echo twice"))) is None
        await client.logged(J)
        assert await client.call("start", order=to_json(order_for(J, "echo twice"))) is None
    assert client.log_of(J) == b"once\n"


@pytest.mark.parametrize("command", [{"t": "stop", "grace_s": 1}, {"t": "forget"}])
async def test_a_start_that_comes_after_the_stop_or_forget_is_refused(agent: Agent, command: dict[str, object]) -> None:
    async with connected(agent) as client:
        assert await client.call(job_id=J, **command) is None  # type: ignore[arg-type]
        agent.kill()
        agent.start()
    async with connected(agent) as client:
        error = await client.call("start", order=to_json(order_for(J, "true")))
    assert error is not None and error["code"] == "agent_refused"
    assert not (agent.home / "jobs" / J).exists()


async def test_forgetting_waits_for_the_end_and_removes_everything(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "mkdir d; touch d/f; chmod 0 d; echo up; sleep 1000")
        await client.line(J, b"up")
        error = await client.call("forget", job_id=J)
        assert error is not None and "has not ended" in error["message"]
        await ended_by_stop(client, J, grace_s=1)
        assert await client.call("forget", job_id=J) is None
        assert await client.call("forget", job_id=J) is None
    assert os.listdir(agent.home / "jobs") == []
    agent.kill(signal.SIGTERM)
    assert os.listdir(agent.home / "trash") == []


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"working_dir": "../.."}, "outside the job's folder"),
        ({"shell": "fish"}, "no shell `fish`"),
        ({"env": {"A": "x" * 200_000}}, "could not be started"),
        ({"files_root": "0" * 64}, "is missing on the server"),
        ({"files_root": "../../etc/passwd"}, "damaged"),
    ],
)
async def test_what_cannot_start_says_why(agent: Agent, order: dict[str, object], words: str) -> None:
    async with connected(agent) as client:
        await client.start(J, "true", **order)
        report = await client.logged(J)
    assert (report.end, report.exit_code) == ("start_failed", None)
    assert words in report.message


@pytest.mark.parametrize("job_id", ["", "..", "a/b", "x" * 200, "-x"])
async def test_an_id_that_could_leave_the_folder_is_refused(agent: Agent, job_id: str) -> None:
    async with connected(agent) as client:
        error = await client.call("start", order=to_json(order_for(job_id, "true")))
        assert error is not None and error["code"] == "agent_refused"
        assert await client.call("forget", job_id=job_id) is not None
    assert os.listdir(agent.home / "jobs") == []


async def test_shutting_down_stops_all_jobs_and_leaves_no_process(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 1000")
        await client.line(J, b"up")
        await client.until(lambda: client.ssh)
        assert await client.call("shutdown") is None
        assert client.reports[J].end == "stopped"
        assert await client.call("ping") is None, "the server hangs up: whatever it still sends, it has the reply"
    assert agent.process is not None and agent.process.wait(PATIENCE_S) == 0
    assert not marked(J) and not (agent.home / "agent.sock").exists()


async def test_files_are_fetched_over_the_link_and_lie_in_the_working_directory(agent: Agent) -> None:
    data = os.urandom(3 << 20)
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    entry = FileEntry("sub/data.bin", "file", 0o644, len(data), tuple(map(hash_of, chunks)))
    page = next(pages_of([entry]))
    root = root_of([hash_of(page)])
    async with connected(agent, blobs={hash_of(blob): blob for blob in (*chunks, page, root)}) as client:
        await client.start(J, "sha256sum sub/data.bin", files_root=hash_of(root))
        await client.logged(J)
    assert client.log_of(J) == f"{hash_of(data)}  sub/data.bin\n".encode()


async def test_a_supervisor_holds_nothing_of_the_agent_open(agent: Agent) -> None:
    async with connected(agent) as client:
        await client.start(J, "echo up; sleep 1000")
        await client.until(lambda: b"started process" in client.log_of(J, "agent"))
        folder = f"/proc/{agent.supervisor(J)}/fd"
        held = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
    job = agent.home / "jobs" / J
    own = {str(job / name) for name in ("agent.log", "lock", "job.log", "job.pipe")}
    assert held == {os.devnull, "anon_inode:[signalfd]", "/memfd:environment (deleted)", *own}
