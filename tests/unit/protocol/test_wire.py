"""Views as JSON. `views.txt` has one example of each; its spelling is that of the first release."""

import json
from pathlib import Path

import pytest

from dstack.protocol import accounts, backends, metrics, services, views
from dstack.protocol.base import View
from dstack.protocol.requests import GrantAccess, InitRepo, RepoRef, Request, SetSecret, StopRun, SubmitRun
from dstack.protocol.views import HealthView, PlanView, RunView, SecretView
from dstack.protocol.wire import decoded, encoded, indented, request_of

EXAMPLES = dict(
    line.split(" ", 1) for line in Path(__file__).with_name("views.txt").read_text(encoding="utf-8").splitlines()
)
KINDS = {
    name: kind
    for name, kind in {**vars(views), **vars(accounts), **vars(backends), **vars(metrics), **vars(services)}.items()
    if isinstance(kind, type) and issubclass(kind, View)
}


def test_every_view_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS) - {"View"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_view_is_written_as_it_was_read(name: str) -> None:
    view = decoded(KINDS[name], EXAMPLES[name])
    assert encoded(view).decode() == EXAMPLES[name]
    assert decoded(KINDS[name], indented(view)) == view


def test_unknown_fields_are_ignored_and_missing_ones_get_their_defaults() -> None:
    view = decoded(HealthView, '{"version": "9", "embedded": true, "later": [1]}')
    assert view == HealthView(version="9", embedded=True) and view.status == "ok"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (HealthView, b""),
        (HealthView, b"\xff"),
        (HealthView, b"<html>"),
        (HealthView, b"[]"),
        (HealthView, b'{"version": "9"}'),
        (HealthView, b'{"version": 9, "embedded": true}'),
        (HealthView, b'{"version": "\xff", "embedded": true}'),
        (HealthView, b'{"version": "\\ud800 ", "embedded": true}'),
        (SecretView, b'{"name": "a", "updated_at": "yesterday"}'),
        (SecretView, b'{"name": "a", "updated_at": "2030-01-31T12:00:05"}'),
        (PlanView, b'{"spec": ' + b'{"a": ' * 100_000),
        (RunView, EXAMPLES["RunView"].replace('"status":"', '"status":"un').encode()),
    ],
)
def test_reply_that_does_not_fit_is_refused(kind: type[View], text: bytes) -> None:
    with pytest.raises(ValueError):
        decoded(kind, text)


def test_text_that_cannot_be_shown_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        encoded(HealthView(version="\ud800", embedded=False))


def test_request_arrives_as_it_was_sent_without_its_defaults() -> None:
    sent = SubmitRun(configuration={"type": "task"}, repo=RepoRef(id="a", hash="0" * 40))
    text = encoded(sent)
    assert json.loads(text) == {"configuration": {"type": "task"}, "repo": {"id": "a", "hash": "0" * 40}}
    assert request_of(SubmitRun, json.loads(text)) == sent


@pytest.mark.parametrize(
    ("kind", "body", "place"),
    [
        (StopRun, None, "body: "),
        (StopRun, ["s3cret"], "body: "),
        (StopRun, {"abort": "s3cret"}, "body.abort: "),
        (SetSecret, {}, "body: .*`value`"),
        (SetSecret, {"value": "s3cret" * 10_000}, "body.value: "),
        (SetSecret, {"value": "a", "later": "s3cret"}, "body: .*`later`"),
        (GrantAccess, {"public_key": "s3cret" * 1000}, "body.public_key: "),
        (InitRepo, {"kind": "s3cret"}, "body.kind: "),
        (SubmitRun, {"configuration": {}, "repo": {"id": ""}}, "body.repo.id: "),
        (SubmitRun, {"configuration": {}, "repo": {"id": "a", "branch": "-s3cret"}}, "body.repo.branch: "),
        (SubmitRun, {"configuration": {}, "repo": {"id": "a", "branch": "s3cret\n"}}, "body.repo.branch: "),
        (SubmitRun, {"configuration": {}, "repo": {"id": "a", "hash": "0" * 40 + "\n"}}, "body.repo.hash: "),
    ],
)
def test_request_that_does_not_fit_is_refused_without_its_value(kind: type[Request], body: object, place: str) -> None:
    with pytest.raises(ValueError, match=place) as caught:
        request_of(kind, body)
    assert "s3cret" not in str(caught.value)
