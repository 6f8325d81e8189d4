"""Which server sees to which instances: they are spread over a fixed number of shards, and a shard has one owner.

Whoever owns an instance's shard holds the link to its agent and performs what was decided about it and its jobs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from zlib import crc32

SHARDS = 64


def shard_of(instance_id: str) -> int:
    """The shard of an instance: the same on every server."""
    return crc32(instance_id.encode()) % SHARDS


@dataclass(frozen=True, slots=True)
class Division:
    """What one replica should change about its shards."""

    take: tuple[int, ...]
    """Nobody has these."""
    give: tuple[int, ...]
    """More than its part: for those who have less."""


def divide(owners: Mapping[int, str | None], live: Collection[str], me: str) -> Division:
    """What `me` should take and give, so that every shard has an owner and nobody has much more than others.

    Args:
        owners: who has each shard, as it is on record.
        live: the replicas whose lease has not run out, `me` among them.
    """
    most = -(-SHARDS // len(live))
    mine = [shard for shard in range(SHARDS) if owners.get(shard) == me]
    free = [shard for shard in range(SHARDS) if owners.get(shard) not in live]
    return Division(take=tuple(free[: max(0, most - len(mine))]), give=tuple(mine[most:]))
