"""`run.logs()` yields every byte once, in order, whatever the job prints and whatever happens meanwhile."""

import hashlib
import itertools
from collections.abc import Iterator

import pytest

from dstack.api import Run, Task
from tests.e2e.home import Home, wait_for
from tests.e2e.tasks import refreshed

FOUNDATIONS = ["file", "postgres", "postgres and s3"]
pytestmark = pytest.mark.server("shared")

MIB = 1 << 20
FAST = "import sys\nline = bytes(range(256)) * 4\nfor number in range(51200): sys.stdout.buffer.write(line)"


def submit(home: Home, *commands: str) -> Run:
    return home.client().runs.submit(configuration=Task(commands=list(commands)))


def python(script: str) -> str:
    return f"python3 - <<'END'\n{script}\nEND"


def expected_fast() -> str:
    return hashlib.sha256(bytes(range(256)) * 4 * 51200).hexdigest()


def digest(chunks: Iterator[bytes]) -> str:
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(chunk)
    return whole.hexdigest()


def test_fifty_megabytes_printed_fast_arrive_whole_and_are_no_utf_8(home: Home) -> None:
    assert digest(submit(home, python(FAST)).logs()) == expected_fast()


@pytest.mark.server("own")
def test_the_same_when_the_server_is_killed_in_the_middle(home: Home) -> None:
    def read_and_kill(chunks: Iterator[bytes]) -> Iterator[bytes]:
        size, killed = 0, False
        for chunk in chunks:
            size += len(chunk)
            if not killed and size > 10 * MIB:
                home.kill_server()
                killed = True
            yield chunk

    assert digest(read_and_kill(submit(home, python(FAST)).logs())) == expected_fast()


def test_a_reader_that_stops_for_a_while_misses_nothing_and_holds_up_nobody(home: Home) -> None:
    run = submit(home, python(FAST))
    slow = run.logs()
    first = next(slow)
    assert digest(home.client().runs.get(run.name).logs()) == expected_fast()  # type: ignore[union-attr]
    run.refresh()
    assert run.status == "done", "the job ends although one reader has not read on"
    assert digest(itertools.chain([first], slow)) == expected_fast()


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("printf 'no newline at the end'", b"no newline at the end"),
        (r"printf '\377\376\000\001 \303'", b"\xff\xfe\x00\x01 \xc3"),
        ("true", b""),
        ("echo out; echo err >&2", b"out\nerr\n"),
        ("printf '%s' 'é'; printf '\\r\\n'", "é\r\n".encode()),
    ],
)
def test_bytes_are_as_they_were_printed(home: Home, command: str, printed: bytes) -> None:
    run = submit(home, command)
    assert b"".join(run.logs()) == printed
    assert b"".join(run.logs()) == printed, "reading again gives the same"


def test_lines_arrive_while_the_job_runs(home: Home) -> None:
    run = submit(home, "echo first", f"cat {home.gate()}", "echo last")
    chunks = run.logs()
    seen = b""
    while b"first\n" not in seen:
        seen += next(chunks)
    wait_for("the run to be seen running", lambda: refreshed(run).status == "running")
    home.open_gate()
    assert seen + b"".join(chunks) == b"first\nopen\nlast\n"


def test_logs_of_a_run_that_waits_come_once_it_runs(home: Home) -> None:
    everything = Task(commands=[f"cat {home.gate()}"], resources={"cpu": f"{home.cpus()}.."})
    first = home.client().runs.submit(run_name="first", configuration=everything)
    second = home.client().runs.submit(
        run_name="second", configuration=Task(commands=["echo mine"], resources={"cpu": f"{home.cpus()}.."})
    )
    chunks = second.logs()
    home.open_gate()
    assert b"".join(chunks) == b"mine\n"
    assert b"".join(first.logs()) == b"open\n"


def test_the_agents_own_words_are_a_log_too(home: Home) -> None:
    run = submit(home, "exit 3")
    words = b"".join(run.logs(diagnose=True)).decode()
    assert "code 3" in words
