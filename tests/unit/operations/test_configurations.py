"""A configuration is read by the server as by a client, and mistakes are part of the answer."""

import pytest

from dstack.domain.backends import BackendRecord
from dstack.errors import InvalidRequestError, ResourceNotExistsError
from dstack.operations import configurations
from dstack.operations.context import Context
from dstack.operations.wishes import CONFIGURATION_BYTES_MAX
from dstack.protocol.requests import ReadConfiguration
from dstack.protocol.views import ConfigurationView, MistakeView
from dstack.store import backends, users
from dstack.store.tx import Tx
from dstack.store.users import User
from tests.unit.operations.test_runs import ADA

TASK = {"type": "task", "commands": ["x"]}


async def test_canonical_form_comes_with_ports_and_notes(context: Context) -> None:
    asked = ReadConfiguration(
        configuration={**TASK, "ports": ["8000:80"], "retry_policy": False},
        changes={"priority": 1},
        profiles=[{"profiles": [{"name": "a", "max_price": 1}]}],
        profile="a",
    )
    note = MistakeView(path=["retry_policy"], text="`retry_policy` is the old name of `retry`: write `retry` instead")
    assert await configurations.read(context, ADA, asked) == ConfigurationView(
        configuration={**TASK, "ports": ["8000:80"], "retry_policy": None, "priority": 1, "max_price": 1.0},
        ports={80: 8000},
        notes=[note],
    )


async def test_mistakes_are_an_answer_with_their_document(context: Context) -> None:
    asked = ReadConfiguration(configuration=TASK, profiles=[{"profiles": [{"name": "a", "max_price": -1}]}])
    mistake = MistakeView(path=["profiles", 0, "max_price"], text="expected more than 0, found `-1`")
    assert await configurations.read(context, ADA, asked) == ConfigurationView(
        configuration={}, mistakes=[mistake], document=1
    )


async def test_missing_profile_and_large_data_are_refused(context: Context) -> None:
    with pytest.raises(InvalidRequestError, match="There is no profile `a`: no file has profiles"):
        await configurations.read(context, ADA, ReadConfiguration(configuration=TASK, profile="a"))
    with pytest.raises(InvalidRequestError, match="at most 524288 are taken"):
        await configurations.read(context, ADA, ReadConfiguration(configuration="x" * CONFIGURATION_BYTES_MAX))


async def test_unknown_backend_is_a_mistake_in_its_document_with_the_projects_names_alone(context: Context) -> None:
    def add(tx: Tx) -> None:
        users.add_user(tx, "1-user", "bob", is_admin=False)
        users.add_project(tx, "1-project", "theirs", "1-user")
        backends.put(tx, BackendRecord("1-row", "aws", "research", "0-project"))
        backends.put(tx, BackendRecord("2-row", "aws", "their-secret", "1-project"))

    await context.db.write(add)

    async def ask(backend: str, place: str) -> ConfigurationView:
        own = {"backends": [backend]} if place == "configuration" else {}
        profiles = [{"profiles": [{"name": "a"}, {"name": "b", "backends": [backend]}]}] if place == "profile" else []
        asked = ReadConfiguration(
            configuration={**TASK, **own},
            changes={"backends": ["aws", backend]} if place == "changes" else {},
            profiles=profiles,
            profile="b" if profiles else None,
            project="main",
        )
        return await configurations.read(context, ADA, asked)

    for place, path, document in (
        ("configuration", ["backends", 0], 0),
        ("profile", ["profiles", 1, "backends", 0], 1),
        ("changes", ["backends", 1], None),
    ):
        for known in ("research", "aws", "local"):
            assert (await ask(known, place)).mistakes == []
        for unknown in ("reserch", "their-secret"):
            found = await ask(unknown, place)
            (mistake,) = found.mistakes
            assert (mistake.path, found.document) == (path, document)
            known_words = mistake.text.partition(f"there is no backend `{unknown}`")[2]
            assert "Names: `research`. Types: `amddevcloud`, `aws`" in known_words
            assert "their-secret" not in known_words
    anywhere = ReadConfiguration(configuration={**TASK, "backends": ["anything"]})
    assert (await configurations.read(context, ADA, anywhere)).mistakes == []
    foreign = ReadConfiguration(configuration={**TASK, "backends": ["their-secret"]}, project="theirs")
    with pytest.raises(ResourceNotExistsError):
        await configurations.read(context, User(id="2-user", name="eve", is_admin=False), foreign)
