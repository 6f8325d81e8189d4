"""What replies and failures become."""

import json
import socket
import traceback

import pytest

from dstack import errors
from dstack.api._events import EventCollection
from dstack.api._servers import Address, FixedServer
from dstack.api._transport import Transport
from dstack.protocol import routes
from dstack.protocol.requests import CreateProject, SubmitRun
from dstack.protocol.views import HealthView

from .conftest import Answer, Asked, FakeServer

HEALTHY = Answer(body=b'{"version": "9", "embedded": false, "unknown": 1}')


def test_a_reply_becomes_the_view_of_its_route(server: FakeServer, transport: Transport) -> None:
    server.answer = lambda asked: HEALTHY
    assert transport.call(routes.HEALTH) == HealthView(version="9", embedded=False)
    assert server.asked[0].headers["Authorization"] == "Bearer s3cret"


def test_event_that_does_not_fit_is_an_error_of_the_server(server: FakeServer, transport: Transport) -> None:
    server.answer = lambda asked: Answer(body=b'data: {"seq": "first"}\n\n')
    with pytest.raises(errors.ServerError, match="not of a dstack server"):
        next(EventCollection(transport, "main").follow())


def test_what_stands_in_a_path_is_quoted_and_what_is_none_stays_out(server: FakeServer, transport: Transport) -> None:
    server.answer = lambda asked: Answer(body=b'{"events": [], "cursor": 0}')
    transport.call(routes.LIST_EVENTS, query={"run": None, "after": 3, "all": True}, project="a? b")
    assert (server.asked[0].path, server.asked[0].query) == (
        "/api/projects/a%3F%20b/events",
        {"after": "3", "all": "true"},
    )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\nb", "\udcff"])
def test_a_name_that_no_url_can_hold_is_refused_before_anything_is_sent(
    server: FakeServer, transport: Transport, name: str
) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        transport.call(routes.GET_SECRET, project="main", secret=name)
    assert caught.value.message == f"`{name}` cannot be a secret's name"
    with pytest.raises(errors.ConfigurationError, match="cannot be a project's name"):
        transport.call(routes.LIST_SECRETS, project=name)
    assert server.asked == []


def test_what_is_not_utf8_is_refused_before_anything_is_sent_and_is_not_shown_where_it_may_be_secret(
    server: FakeServer, transport: Transport
) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"`run`: '\\udcff' is not UTF-8 text"):
        transport.call(routes.LIST_EVENTS, query={"run": "\udcff"}, project="main")
    body = SubmitRun(configuration={"env": {"KEY": "s3cret\udcff"}})
    with pytest.raises(errors.ConfigurationError, match="Something that was given is not UTF-8 text") as caught:
        transport.call(routes.SUBMIT_RUN, body, project="main")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert server.asked == []


@pytest.mark.parametrize("url", ["a..b", "http://", "ftp://a", "http://a:b", "http://a..b", f"http://{'x' * 70}"])
def test_a_url_that_no_server_can_have_is_told(url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"No server can have the URL `{url}`: "):
        Transport(FixedServer(Address(url, "t"))).call(routes.HEALTH)


@pytest.mark.parametrize(
    "kind",
    [
        errors.ResourceExistsError,
        errors.ResourceNotExistsError,
        errors.ForbiddenError,
        errors.NoCapacityError,
        errors.GatewayError,
        errors.RepoDoesNotExistError,
        errors.BackendInvalidCredentialsError,
        errors.InvalidRequestError,
        errors.ConfigurationError,
    ],
)
def test_a_problem_becomes_the_error_of_its_code(
    server: FakeServer, transport: Transport, kind: type[errors.DstackError]
) -> None:
    problem = {"title": "No", "status": 409, "code": kind.code, "detail": "It is `x`", "hint": "Take `y`"}
    server.answer = lambda asked: Answer(409, json.dumps(problem).encode())
    with pytest.raises(kind) as caught:
        transport.call(routes.HEALTH)
    assert (type(caught.value), caught.value.message, caught.value.hint) == (kind, "It is `x`", "Take `y`")


def test_a_wrong_token_says_where_tokens_are_and_not_what_it_was(server: FakeServer, transport: Transport) -> None:
    problem = {"title": "No", "status": 401, "code": "unauthorized", "detail": "The token is unknown"}
    server.answer = lambda asked: Answer(401, json.dumps(problem).encode())
    said = r"The token is unknown: `http://127.*\nhint: .*dstack project add"
    with pytest.raises(errors.UnauthorizedError, match=said) as caught:
        transport.call(routes.HEALTH)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(200, b"<html>hello</html>"), r"\(status 200\) that is not of a dstack server"),
        (Answer(404, b"<html>nothing here</html>"), r"\(status 404\) that is not of a dstack server"),
        (Answer(500, b""), r"\(status 500\) that is not of a dstack server"),
        (Answer(302, b"", {"Location": "https://login"}), "redirects to `https://login`"),
    ],
)
def test_an_answer_of_something_else_is_a_clear_error(
    server: FakeServer, transport: Transport, answer: Answer, says: str
) -> None:
    server.answer = lambda asked: answer
    with pytest.raises(errors.ServerError, match=says):
        transport.call(routes.HEALTH)


def test_nobody_at_the_url_is_told_with_the_url_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    transport = Transport(FixedServer(Address(f"http://127.0.0.1:{port}", "s3cret")))
    with pytest.raises(
        errors.ServerUnreachableError, match=f"No server answers at `http://127.0.0.1:{port}`"
    ) as caught:
        transport.call(routes.HEALTH)
    assert "dstack server" in str(caught.value) and "s3cret" not in str(caught.value)
    transport.close()


def test_a_request_whose_connection_breaks_is_sent_again(server: FakeServer, transport: Transport) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(cut=True) if len(server.asked) == 1 else Answer(503) if len(server.asked) == 2 else HEALTHY

    server.answer = answer
    assert transport.call(routes.HEALTH).version == "9"
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_is_away_just_now_is_asked_again_and_told_in_the_end(
    server: FakeServer, transport: Transport, status: int
) -> None:
    server.answer = lambda asked: Answer(status, b"<html>bad gateway</html>")
    with pytest.raises(errors.ServerUnreachableError, match=f"status {status}"):
        transport.call(routes.HEALTH)
    problem = {"title": "No", "status": status, "code": "host_unreachable", "detail": "The host is away"}
    server.answer = lambda asked: Answer(status, json.dumps(problem).encode())
    with pytest.raises(errors.HostUnreachable, match="The host is away"):
        transport.call(routes.HEALTH)
    assert len(server.asked) == 8


def test_a_closed_client_says_so(transport: Transport) -> None:
    transport.close()
    with pytest.raises(errors.ServerUnreachableError, match="The client is closed"):
        transport.call(routes.HEALTH)


def test_a_proxy_of_the_environment_does_not_stand_before_loopback(
    server: FakeServer, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.answer = lambda asked: HEALTHY
    assert transport.call(routes.HEALTH).version == "9"


def test_lines_end_at_line_feeds_only(server: FakeServer, transport: Transport) -> None:
    text = "data: a\u2028b\r\n\ndata: c\n"
    pieces = [text.encode()[:9], text.encode()[9:]]
    server.answer = lambda asked: Answer(chunks=iter(pieces))
    with transport.stream(routes.HEALTH, accept="text/event-stream", idle_timeout_s=5) as reply:
        assert list(reply.lines()) == ["data: a\u2028b", "", "data: c"]


def test_creation_whose_answer_was_lost_is_repeated_with_the_same_key(server: FakeServer, transport: Transport) -> None:
    server.answer = lambda asked: (
        Answer(cut=True) if len(server.asked) == 1 else Answer(body=b'{"name": "a", "role": ""}')
    )
    for _ in range(2):
        transport.call(routes.CREATE_PROJECT, CreateProject(name="a"))
    lost, again, other = (asked.headers["Idempotency-Key"] for asked in server.asked)
    assert lost == again != other
