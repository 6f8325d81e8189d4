"""Creations whose answer was lost: a client repeats them with the same key."""

import httpx
import pytest

from dstack.operations.context import Context
from dstack.store import users

KEY = {"Idempotency-Key": "first"}
CREATIONS = {
    "user": ("/api/users", {"name": "bob", "is_admin": True}),
    "project": ("/api/projects", {"name": "vision"}),
}


@pytest.mark.parametrize("kind", CREATIONS)
async def test_repeated_creation_has_the_same_answer_and_another_one_is_refused(
    http: httpx.AsyncClient, kind: str
) -> None:
    path, body = CREATIONS[kind]
    first = await http.post(path, json=body, headers=KEY)
    again = await http.post(path, json=body, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    for headers in ({"Idempotency-Key": "second"}, {}):
        assert (await http.post(path, json=body, headers=headers)).status_code == 409


async def test_repeated_restoration_of_a_user_has_the_same_answer(http: httpx.AsyncClient) -> None:
    path, body = CREATIONS["user"]
    await http.post(path, json=body, headers=KEY)
    await http.delete("/api/users/bob")
    restored = [await http.post(path, json=body, headers={"Idempotency-Key": "second"}) for _ in range(2)]
    assert [one.status_code for one in restored] == [201, 201]
    assert (await http.post(path, json=body, headers=KEY)).status_code == 409, "the request of the former life"


async def test_repeated_creation_of_a_token_replaces_its_value(http: httpx.AsyncClient, context: Context) -> None:
    path, body = "/api/users/ada/tokens", {"name": "ci", "expires_in_s": 3600}
    first, again = [await http.post(path, json=body, headers=KEY) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    values = [answer.json()["value"] for answer in (first, again)]
    found = await context.db.read(lambda tx: [users.find_by_token(tx, value) for value in values])
    assert [one and one.name for one in found] == [None, "ada"], "the first value was lost on its way"
    assert (await http.post(path, json=body, headers={"Idempotency-Key": "second"})).status_code == 409


async def test_key_of_another_user_repeats_nothing(http: httpx.AsyncClient, context: Context) -> None:
    await http.post("/api/projects", json={"name": "vision"}, headers=KEY)
    await http.post("/api/users", json={"name": "bob", "is_admin": True})
    bob = (await http.post("/api/users/bob/tokens", json={"name": "t"})).json()["value"]
    by_bob = {**KEY, "Authorization": f"Bearer {bob}"}
    assert (await http.post("/api/projects", json={"name": "vision"}, headers=by_bob)).status_code == 409
