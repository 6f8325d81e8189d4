"""What submitting promises: once is once, and what can never run is refused at once."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from dstack.errors import InvalidRequestError, NoCapacityError
from dstack.operations import submitting
from dstack.operations.context import Context
from dstack.protocol.requests import SubmitRun
from dstack.store import objects
from dstack.store.db import Database
from dstack.store.users import User

ADA = User(id="0-user", name="ada", is_admin=True)


def wish(**fields: Any) -> SubmitRun:
    return SubmitRun(configuration={"type": "task", "commands": ["true"], **fields})


@pytest.mark.parametrize("name", [None, "hello"])
async def test_a_submit_whose_commit_lost_its_answer_is_one_run(
    context: Context, db: Database, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    commit: Callable[..., object] = db._commit
    lost = iter([True, False])

    def commit_and_lose_the_answer(*args: object) -> object:
        result = commit(*args)
        if next(lost):
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))
        return result

    monkeypatch.setattr(db, "_commit", commit_and_lose_the_answer)
    view = await submitting.submit(context, ADA, "main", wish(name=name), key=None)
    found = await db.read(lambda tx: objects.list_runs(tx, "0-project", limit=10)[0])
    assert [run.id for run in found] == [view.id]


async def test_nodes_for_which_there_are_never_machines_enough_are_refused(context: Context, db: Database) -> None:
    whole = {"nodes": 2, "resources": {"cpu": 4, "memory": "1GB..", "disk": "1GB.."}}
    with pytest.raises(NoCapacityError, match="No backend has the machines for 2 nodes at once"):
        await submitting.submit(context, ADA, "main", wish(**whole), key=None)
    assert await db.read(lambda tx: objects.list_runs(tx, "0-project", limit=10)[0]) == []
    await submitting.submit(context, ADA, "main", wish(**whole | {"nodes": 1}), key=None)


async def test_password_in_the_url_of_a_repo_is_refused(context: Context) -> None:
    with pytest.raises(InvalidRequestError, match="The URL in `repos` has a password") as caught:
        await submitting.submit(context, ADA, "main", wish(repos=["https://me:s3cret@example.com/a/b"]), key=None)
    assert "s3cret" not in f"{caught.value}{caught.value.hint}"


async def test_repo_that_is_named_and_not_brought_is_refused(context: Context) -> None:
    with pytest.raises(InvalidRequestError, match="`repos` names a repo, and the request brings none"):
        await submitting.submit(context, ADA, "main", wish(repos=["."]), key=None)
