"""The division of instances among servers: a fixed number of shards, each with one owner.

The owner of an instance's shard holds the link to its agent, and performs the intents of the instance and its jobs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from zlib import crc32

SHARDS = 64


def shard_of(key: str) -> int:
    """The shard of an instance, or of another object with intents of its own: the same on every server."""
    return crc32(key.encode()) % SHARDS


@dataclass(frozen=True, slots=True)
class Division:
    """The shards that one replica should take and give."""

    take: tuple[int, ...]
    """These have no owner."""
    give: tuple[int, ...]
    """More than its part: for those who have less."""


def divide(owners: Mapping[int, str | None], live: Collection[str], me: str) -> Division:
    """Return the shards that `me` should take and give, so that all have owners with about equal numbers.

    Args:
        owners: the owner on record of each shard.
        live: the replicas whose lease has not run out, `me` among them.
    """
    most = -(-SHARDS // len(live))
    mine = [shard for shard in range(SHARDS) if owners.get(shard) == me]
    free = [shard for shard in range(SHARDS) if owners.get(shard) not in live]
    return Division(take=tuple(free[: max(0, most - len(mine))]), give=tuple(mine[most:]))
