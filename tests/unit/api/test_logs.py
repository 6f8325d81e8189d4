"""Following a log across everything that may break."""

import threading
from collections.abc import Iterator

import pytest
from msgspec import convert
from msgspec.structs import replace

from dstack.api import _logs
from dstack.api._logs import LogReader
from dstack.api._transport import Patience, Transport
from dstack.errors import ResourceNotExistsError, ServerUnreachableError
from dstack.protocol.views import RunView
from tests.patience import PATIENCE_S

from .conftest import Answer, Asked, FakeServer

LOG = bytes(range(256)) * 40 + b"no newline at the end"


def run(status: str, job_status: str | None = None, attempt: int = 1) -> RunView:
    at = "2030-01-01T00:00:00Z"
    job = dict.fromkeys(("reason", "exit_code", "signal", "started_at", "finished_at", "instance"))
    job |= {"id": "1", "replica": 0, "node": 0, "attempt": attempt, "status": job_status or status, "detail": ""}
    view = dict.fromkeys(("reason", "started_at", "finished_at"))
    view |= {"id": "1", "name": "r", "project": "p", "user": "u", "status": status, "detail": "", "type": "task"}
    rest = {"spec": {}, "priority": 0, "submitted_at": at, "cursor": 7}
    return convert({**view, **rest, "jobs": [{**job, "submitted_at": at, "ports": {}}]}, RunView)


class Log:
    """Serves `LOG` from the offset that is asked for; each answer says how far it goes and whether it breaks there."""

    def __init__(self, server: FakeServer, *answers: tuple[int, bool]) -> None:
        self.answers: Iterator[tuple[int, bool]] = iter(answers)
        self.asked: list[dict[str, str]] = []
        server.answer = self.answer

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked.query)
        offset = int(asked.query.get("offset", 0))
        end, cut = next(self.answers, (len(LOG), False))
        pieces = (LOG[at : min(at + 1000, end)] for at in range(offset, end, 1000))
        return Answer(headers={"Dstack-Log-Offset": str(offset)}, chunks=pieces, cut=cut)


def reader(transport: Transport, *views: RunView, **query: str) -> LogReader:
    """A reader that finds the run as one view after the other."""
    left = iter(views)
    return LogReader(
        transport,
        {"project": "p", "run": "1"},
        {"replica": 0, "node": 0, "stream": "job", **query},
        refresh=lambda: next(left),
        changed=lambda view: next(left),
    )


def test_a_finished_run_gives_its_whole_log_at_one_question(server: FakeServer, transport: Transport) -> None:
    log = Log(server)
    assert b"".join(reader(transport).follow(run("done"))) == LOG
    assert log.asked == [{"replica": "0", "node": "0", "stream": "job", "follow": "true"}]


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("at", [0, 1, 1000, 4321, len(LOG)])
def test_no_byte_is_lost_or_repeated_where_the_stream_ends_early(
    server: FakeServer, transport: Transport, at: int, cut: bool
) -> None:
    log = Log(server, (at, cut), (at, cut))
    views = [run("running"), run("running"), run("done"), run("done")]
    assert b"".join(reader(transport, *views).follow(run("running"))) == LOG
    assert {query["offset"] for query in log.asked[1:]} <= {str(at), str(len(LOG))}


def test_a_silent_connection_is_made_again_and_is_no_failure(
    server: FakeServer, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_logs, "IDLE_TIMEOUT_S", 0.1)
    asked_again = threading.Event()

    def stalled() -> Iterator[bytes]:
        yield LOG[:10]
        assert asked_again.wait(PATIENCE_S)

    def answer(asked: Asked) -> Answer:
        if "offset" not in asked.query:
            return Answer(chunks=stalled())
        asked_again.set()
        return Answer(chunks=iter([LOG[int(asked.query["offset"]) :]]))

    server.answer = answer
    assert b"".join(reader(transport).follow(run("done"))) == LOG


def test_start_time_is_said_once_and_then_the_offset_that_the_server_named(
    server: FakeServer, transport: Transport
) -> None:
    asked: list[dict[str, str]] = []

    def answer(one: Asked) -> Answer:
        asked.append(one.query)
        offset = int(one.query.get("offset", 5000))
        return Answer(headers={"Dstack-Log-Offset": str(offset)}, chunks=iter([LOG[offset : offset + 3000]]), cut=True)

    server.answer = answer
    follow = reader(transport, start_time="2030-01-01T00:00:00+00:00").follow(run("running"))
    assert next(follow) + next(follow) == LOG[5000 : 5000 + 6000][: len(LOG) - 5000]
    follow.close()
    assert asked[0]["start_time"] == "2030-01-01T00:00:00+00:00" and "offset" not in asked[0]
    assert asked[1]["offset"] == "8000" and "start_time" not in asked[1]


def test_a_new_attempt_is_waited_for_after_the_job_has_ended(server: FakeServer, transport: Transport) -> None:
    log = Log(server, (3000, False), (3000, False))
    views = [run("running", "failed"), run("running", "failed"), run("running"), run("done")]
    assert b"".join(reader(transport, *views).follow(run("running"))) == LOG
    assert [query.get("offset") for query in log.asked] == [None, "3000", "3000", str(len(LOG))]


def test_log_of_one_attempt_ends_with_it_though_the_run_goes_on(server: FakeServer, transport: Transport) -> None:
    log = Log(server, (3000, False))
    views = [run("pending", "failed", attempt=2)]
    assert b"".join(reader(transport, *views, attempt="2").follow(run("running", attempt=2))) == LOG
    assert {query["attempt"] for query in log.asked} == {"2"}


def test_log_of_a_run_without_jobs_waits_for_its_first_start(server: FakeServer, transport: Transport) -> None:
    scheduled = replace(run("pending", "submitted"), jobs=[])
    log = Log(server)
    assert b"".join(reader(transport, run("done")).follow(scheduled)) == LOG
    assert len(log.asked) == 1


def test_a_server_that_stays_away_is_told_after_all_patience(
    server: FakeServer, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda asked: Answer(503)
    monkeypatch.setattr(_logs, "Patience", lambda transport: Patience(transport, limit_s=0.0))
    with pytest.raises(ServerUnreachableError, match="No server answers at"):
        list(reader(transport).follow(run("running")))


def test_what_the_server_refuses_is_raised(server: FakeServer, transport: Transport) -> None:
    body = b'{"title": "", "status": 404, "code": "resource_not_exists", "detail": "There is no job 7"}'
    server.answer = lambda asked: Answer(404, body)
    with pytest.raises(ResourceNotExistsError, match="no job 7"):
        list(reader(transport).follow(run("running")))


@pytest.mark.parametrize("status", ["done", "running"])
def test_a_line_of_our_own_stands_where_output_is_lost(server: FakeServer, transport: Transport, status: str) -> None:
    text = b"one\ntwo\nthree\nfour\n"
    asked: list[int] = []

    def answer(one: Asked) -> Answer:
        """Bytes 0 to 4 and 9 to 11 are lost: each answer reaches up to a gap, and the next one tells of it."""
        offset = int(one.query.get("offset", 0))
        asked.append(offset)
        first = {0: 4, 9: 11}.get(offset, offset)
        end = 9 if first < 9 else len(text)
        headers = {"Dstack-Log-Offset": first, "Dstack-Log-Lost": first - offset, "Dstack-Log-End": len(text)}
        return Answer(headers={name: str(value) for name, value in headers.items()}, chunks=iter([text[first:end]]))

    server.answer = answer
    notice = b"[dstack: 4 bytes of output before this line are lost: more was printed than is kept]\n"
    views = iter([run(status), run("done")])
    read = b"".join(reader(transport, *views).follow(run(status)))
    assert read == notice + b"two\nt" + b"\n" + notice.replace(b"4", b"2") + b"ee\nfour\n"
    assert asked[:2] == [0, 9]


def test_an_old_log_that_ends_early_for_good_is_not_asked_for_for_ever(
    server: FakeServer, transport: Transport
) -> None:
    headers = {"Dstack-Log-Offset": "0", "Dstack-Log-End": "100"}
    server.answer = lambda asked: Answer(
        headers=headers | {"Dstack-Log-Offset": asked.query.get("offset", "0")}, chunks=iter([])
    )
    assert list(reader(transport).follow(run("done"))) == []
