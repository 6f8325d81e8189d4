"""Who owns which shards: leases that run out unless they are renewed, and numbers that only grow (fencing)."""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import bindparam, delete, insert, select, update

from dstack.domain.sharding import shard_of
from dstack.errors import LeaseLost
from dstack.store.tables import replicas, shards
from dstack.store.tx import Tx

_LASTING = select(replicas).where(replicas.c.expires_at.is_(None) | (replicas.c.expires_at > bindparam("now")))
_BEAT = update(replicas).where(replicas.c.id == bindparam("of_id")).values(expires_at=bindparam("until"))
_EXPIRE = delete(replicas).where((replicas.c.id != bindparam("of_id")) & (replicas.c.expires_at <= bindparam("now")))
_FORGET = delete(replicas).where(replicas.c.id == bindparam("of_id"))
_RENEW = insert(replicas)
_SHARDS = select(shards)
_SET = (
    update(shards)
    .where(shards.c.number == bindparam("of_number"))
    .values({name: bindparam(name) for name in ("replica_id", "epoch")})
)


def live_replicas(tx: Tx) -> dict[str, str]:
    """The replicas whose lease has not run out, and their hosts' names. A lease without an end never does."""
    return {row.id: row.hostname for row in tx.select(_LASTING, {"now": tx.clock.now()})}


def with_data_planes(tx: Tx) -> frozenset[str]:
    """Return the live replicas that have a data plane."""
    return frozenset(row.id for row in tx.select(_LASTING, {"now": tx.clock.now()}) if row.has_data_plane)


def expire(tx: Tx, replica_id: str) -> dict[str, str]:
    """Delete the replicas whose lease has run out. Return those that are left, with their hosts' names.

    The deletion alone decides: a renewal that comes before it keeps the row, and one that comes after it finds none.
    """
    tx.change(_EXPIRE, {"of_id": replica_id, "now": tx.clock.now()})
    return {row.id: row.hostname for row in tx.select(select(replicas))}


def renew(tx: Tx, replica_id: str, hostname: str, until: datetime | None, *, has_data_plane: bool = False) -> None:
    """Put a replica on record that lives until then, None for ever."""
    tx.change(_FORGET, {"of_id": replica_id})
    about = {"hostname": hostname, "expires_at": until, "has_data_plane": has_data_plane}
    tx.change(_RENEW, {"id": replica_id, **about})


def set_data_plane(tx: Tx, replica_id: str, *, is_there: bool) -> None:
    """Note whether a replica has a data plane."""
    tx.change(update(replicas).where(replicas.c.id == replica_id).values(has_data_plane=is_there))


def beat(tx: Tx, replica_id: str, until: datetime) -> bool:
    """Let a replica live until then; return False if it is not on record any more. Needs no turn."""
    return tx.select(_BEAT, {"of_id": replica_id, "until": until}).rowcount > 0


def forget_all(tx: Tx) -> None:
    """There are no other servers: those that are on record have ended."""
    tx.change(delete(replicas))


def owners(tx: Tx) -> dict[int, str | None]:
    """Who has each shard."""
    return {number: owner for number, (owner, _) in _owned(tx).items()}


def epochs_of(tx: Tx, replica_id: str) -> dict[int, int]:
    """The shards of a replica, each with its epoch."""
    return {number: epoch for number, (owner, epoch) in _owned(tx).items() if owner == replica_id}


def _owned(tx: Tx) -> Mapping[int, tuple[str | None, int]]:
    known = tx.known.get(("shards", ""))
    if known is None:
        known = {row.number: (row.replica_id, row.epoch) for row in tx.select(_SHARDS)}
        tx.known["shards", ""] = known
    owned: Mapping[int, tuple[str | None, int]] = known
    return owned


def take(tx: Tx, replica_id: str, numbers: Collection[int]) -> dict[int, int]:
    """Become the owner of shards. Returns the epoch of each: higher than any that an earlier owner had."""
    known = _owned(tx)
    least = int(tx.clock.now().timestamp() * 1_000_000)
    epochs = {number: max(least, known[number][1] + 1) if number in known else least for number in numbers}
    _set(tx, {number: (replica_id, epoch) for number, epoch in epochs.items()})
    return epochs


def give(tx: Tx, replica_id: str, numbers: Collection[int]) -> None:
    """Leave shards to others; those of them that somebody else has taken already stay his."""
    known = _owned(tx)
    _set(tx, {number: (None, known[number][1]) for number in numbers if known[number][0] == replica_id})


def leave(tx: Tx, replica_id: str) -> None:
    """A replica ends: others may take all it has at once."""
    give(tx, replica_id, [number for number, owner in owners(tx).items() if owner == replica_id])
    tx.change(delete(replicas).where(replicas.c.id == replica_id))


def _set(tx: Tx, owned: Mapping[int, tuple[str | None, int]]) -> None:
    known = _owned(tx)
    born = [number for number in owned if number not in known]
    if born:
        tx.change(insert(shards), [_row(number, owned[number]) for number in born])
    taken = [number for number in owned if number in known]
    if taken:
        tx.change(
            _SET, [{"of_number": number, "replica_id": owned[number][0], "epoch": owned[number][1]} for number in taken]
        )
    tx.known["shards", ""] = {**known, **owned}


def _row(number: int, owned: tuple[str | None, int]) -> dict[str, object]:
    return {"number": number, **_claim(owned)}


def _claim(owned: tuple[str | None, int]) -> dict[str, object]:
    return {"replica_id": owned[0], "epoch": owned[1]}


def check(tx: Tx, replica_id: str, key: str, epoch: int) -> None:
    """Raise `LeaseLost` unless the replica still owns the shard of the key, and has all the time since that epoch."""
    if _owned(tx).get(shard_of(key)) != (replica_id, epoch):
        raise LeaseLost(f"Another server owns the shard of `{key}` now")
