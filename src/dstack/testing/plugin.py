"""The pytest plugin: who has dstack installed has the fixture `dstack_cluster`. Nothing loads before its use."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:  # loaded when a test asks for a cluster
    from dstack.domain.offers import Offer
    from dstack.testing.cluster import Cluster
    from dstack.testing.faults import Fault

MakeCluster: TypeAlias = "Callable[..., Cluster]"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--dstack-seed`."""
    group = parser.getgroup("dstack")
    group.addoption("--dstack-seed", type=int, default=1, help="the chance in made-up clusters of dstack")


@pytest.fixture
def dstack_cluster(request: pytest.FixtureRequest) -> Iterator[MakeCluster]:
    """Makes clusters: `dstack_cluster(backends=["aws"], faults=[SpotReclaims()])`. See `dstack.testing.Cluster`."""
    made: list[Cluster] = []

    def make(
        backends: "Sequence[str] | Mapping[str, Sequence[Offer]]" = ("local",),
        faults: "Sequence[Fault]" = (),
        clock: str = "virtual",
        seed: int | None = None,
        servers: int = 1,
    ) -> "Cluster":
        from dstack.testing.cluster import Cluster

        chance = request.config.getoption("--dstack-seed") if seed is None else seed
        made.append(Cluster(backends, faults, clock=clock, seed=chance, servers=servers))
        return made[-1]

    yield make
    try:
        for cluster in made:
            cluster.check()
    finally:
        for cluster in made:
            cluster.close()
