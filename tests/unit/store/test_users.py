"""The first admin, with the token that the server itself sets."""

import pytest

from dstack.errors import ConfigurationError
from dstack.kit.clock import SystemClock
from dstack.kit.ids import RandomIds
from dstack.store import events, users
from dstack.store.db import Database
from dstack.store.tx import Tx
from dstack.store.users import Account, User

IDS = RandomIds(SystemClock())


@pytest.fixture(autouse=True)
async def _no_project(db: Database) -> None:
    await db.write(lambda tx: users.delete_project(tx, "0-project"))


async def start(db: Database, token: str) -> None:
    """Start a server with a token."""
    await db.write(lambda tx: users.ensure_admin(tx, IDS, token))


async def caller(db: Database, token: str) -> User | None:
    return await db.read(lambda tx: users.find_by_token(tx, token))


def admin_in(tx: Tx) -> Account:
    account = users.find_user(tx, "admin")
    assert account is not None
    return account


async def test_servers_with_one_token_share_it_and_another_one_replaces_it(db: Database) -> None:
    await start(db, "one")
    former = await caller(db, "one")
    await start(db, "one")
    assert former is not None and former == await caller(db, "one")
    await start(db, "two")
    assert await caller(db, "one") is None and await caller(db, "two") is not None
    assert await db.read(lambda tx: users.find_again(tx, former)) is None, "streams of the former token end"
    lines = await db.read(lambda tx: events.list_after(tx, "", 0, run_id=None, limit=10, shared=True))
    replaced = ("server", "a start of the server replaced the token server of the user admin")
    assert [(one.actor, one.message) for one in lines] == [replaced], "neither the first start nor the same token"


async def test_deleted_admin_gets_no_token_at_the_next_start(db: Database) -> None:
    await start(db, "one")
    await db.write(lambda tx: users.delete_user(tx, admin_in(tx).id))
    await start(db, "one")
    await db.write(lambda tx: users.add_user(tx, admin_in(tx).id, "admin", is_admin=False))
    assert await caller(db, "one") is None, "a user of that name has no former rights"


async def test_servers_token_that_is_a_users_token_is_refused(db: Database) -> None:
    await start(db, "one")
    await db.write(lambda tx: users.add_token(tx, "0-token", "0-user", "ci", "two", None))
    with pytest.raises(ConfigurationError, match="is the token `ci` of the user `ada`"):
        await start(db, "two")
    assert await caller(db, "one") is not None
