from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.sharding import SHARDS, divide, shard_of

names = st.sampled_from(["a", "b", "c", "d"])
owned = st.dictionaries(st.integers(0, SHARDS - 1), st.none() | names | st.just("dead"))
live = st.sets(names, min_size=1)


def settle(owners: dict[int, str | None], live: set[str]) -> dict[int, str | None]:
    """Everybody renews in turn until nobody changes anything."""
    for _ in range(10):
        for me in sorted(live):
            division = divide(owners, live, me)
            owners.update(dict.fromkeys(division.take, me))
            owners.update(dict.fromkeys(division.give, None))
    return owners


@given(owned, live)
def test_every_shard_finds_one_owner_who_lives_and_nobody_has_much_more_than_others(
    owners: dict[int, str | None], live: set[str]
) -> None:
    settled = settle(owners, live)
    counts = [sum(owner == one for owner in settled.values()) for one in live]
    assert len(settled) == SHARDS and set(settled.values()) <= live
    assert max(counts) <= -(-SHARDS // len(live))


@given(owned, live, names)
def test_nobody_takes_what_a_living_one_has(owners: dict[int, str | None], live: set[str], me: str) -> None:
    live |= {me}
    division = divide(owners, live, me)
    assert all(owners.get(shard) not in live for shard in division.take)
    assert all(owners.get(shard) == me for shard in division.give)


def test_an_instance_is_in_the_same_shard_on_every_server() -> None:
    assert [shard_of(id) for id in ("0-instance", "1-instance")] == [13, 51]
