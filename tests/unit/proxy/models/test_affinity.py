"""Conversations stay on the replica that has read them, while its load allows."""

import json
from collections import Counter

from dstack.protocol.proxy import Replica, Tcp
from dstack.proxy.balance import Replicas
from dstack.proxy.models.affinity import BLOCKS_MAX, GAP, TEXT_BYTES_MAX, Affinity, chain_of
from dstack.proxy.routes import Route
from tests.unit.proxy.models.conftest import Plane, service


def route_with(count: int, name: str = "llama") -> Route:
    replicas = tuple(Replica(f"{name}-{number}", number, Tcp("127.0.0.1", 1)) for number in range(count))
    route = Route(service(name), Replicas())
    route.replicas.follow(replicas, ())
    return route


def conversation(topic: str, turns: int) -> list[int]:
    messages = [{"role": "user", "content": f"{topic} {turn} " * 60} for turn in range(turns)]
    return chain_of("tiny", memoryview(json.dumps(messages).encode()))


def test_turn_of_a_conversation_begins_with_the_chain_of_the_last_one() -> None:
    second, third = conversation("ships", 2), conversation("ships", 3)
    assert third[: len(second)] == second
    assert len(third) > len(second) > 3
    assert not set(second) & set(conversation("trees", 2))


def test_chain_is_bounded_however_long_the_text_is() -> None:
    text = bytearray(b"x" * 8 * TEXT_BYTES_MAX)
    chain = chain_of("tiny", memoryview(text))
    text[-1] = 0
    assert (len(chain), chain_of("tiny", memoryview(text))) == (BLOCKS_MAX, chain)
    assert chain_of("other", memoryview(text)) != chain
    assert chain_of("tiny", memoryview(b"short")) == []


def test_conversations_spread_and_each_stays_where_it_began() -> None:
    affinity, route = Affinity(), route_with(4)
    places: dict[str, set[str]] = {}
    for turn in range(1, 6):
        for topic in map(str, range(41)):
            chosen = affinity.choose([route], conversation(topic, turn), 0.0)
            assert chosen is not None
            places.setdefault(topic, set()).add(chosen[1].replica.job_id)
    assert all(len(jobs) == 1 for jobs in places.values())
    assert sorted(Counter(job for jobs in places.values() for job in jobs).values()) == [10, 10, 10, 11]


def test_conversation_leaves_a_replica_that_has_too_much_to_do() -> None:
    affinity, route = Affinity(), route_with(2)
    first = affinity.choose([route], conversation("ships", 2), 0.0)
    assert first is not None
    first[1].outstanding = GAP - 1
    assert affinity.choose([route], conversation("ships", 3), 0.0) == first
    first[1].outstanding = GAP
    second = affinity.choose([route], conversation("ships", 4), 0.0)
    assert second is not None
    assert second != first
    first[1].outstanding = 0
    assert affinity.choose([route], conversation("ships", 5), 0.0) == second, "the other one has read more by now"


def test_conversation_leaves_a_replica_that_leaves_or_cannot_be_reached() -> None:
    affinity, route = Affinity(), route_with(3)
    first = affinity.choose([route], conversation("ships", 2), 0.0)
    assert first is not None
    first[1].failed(0.0)
    second = affinity.choose([route], conversation("ships", 2), 0.5)
    assert second is not None
    assert second != first
    left = [state.replica for state in route.replicas.ready if state is not second[1]]
    route.replicas.follow(left, (second[1].replica,))
    third = affinity.choose([route], conversation("ships", 2), 0.5)
    assert third is not None
    assert third[1] in route.replicas.ready
    assert affinity.choose([route], conversation("ships", 2), 0.5, tried=route.replicas.ready) is None


def test_replicas_of_several_services_are_one_set() -> None:
    affinity, routes = Affinity(), [route_with(2, "a"), route_with(1, "b")]
    chosen = [affinity.choose(routes, [], 0.0) for _ in range(6)]
    assert Counter(one[1].replica.job_id for one in chosen if one) == {"a-0": 2, "a-1": 2, "b-0": 2}
    assert all(one[1] in one[0].replicas.ready for one in chosen if one)


def test_memory_is_bounded_and_forgets_what_is_oldest() -> None:
    affinity, route = Affinity(remembered_max=100), route_with(2)
    for number in range(100):
        affinity.choose([route], conversation(str(number), 3), 0.0)
    assert len(affinity) == 100


async def test_turns_of_a_conversation_meet_the_same_replica(plane: Plane) -> None:
    servers = [await plane.server(name) for name in ("a", "b", "c")]
    plane.follow(service("llama", *servers))
    replicas = []
    messages = [{"role": "system", "content": "be short " * 100}]
    for turn in range(5):
        messages.append({"role": "user", "content": f"question {turn}"})
        answer = await plane.send("main/chat/completions", {"model": "tiny", "messages": messages})
        messages.append(answer.json()["choices"][0]["message"])
        replicas.append(answer.headers["x-replica"])
    assert len(set(replicas)) == 1
