"""What made-up clouds have on sale where a test does not say: small, large and very large machines."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dstack.backends import local
from dstack.domain.offers import Offer
from dstack.errors import ConfigurationError
from dstack.kit.text import listed
from dstack.protocol.agent import Engine, Gpu, HostResources
from dstack.spec.backends import BackendType

GIB = 1024
_HERE = local.offer_of(HostResources(4, 16 * GIB, 100 * GIB))
_ENGINE = Engine("docker", "27.3.1", "x86_64")
_A10 = Gpu("nvidia", "NVIDIA A10G", 24 * GIB)
_A100 = Gpu("nvidia", "NVIDIA A100-SXM4-80GB", 80 * GIB)
_SIZES = (
    ("small", HostResources(4, 16 * GIB, 200 * GIB, engine=_ENGINE), 0.2),
    ("gpu", HostResources(8, 32 * GIB, 500 * GIB, (_A10,), _ENGINE), 1.0),
    ("gpus", HostResources(96, 1024 * GIB, 4096 * GIB, (_A100,) * 8, _ENGINE), 32.0),
)
SPOT_DISCOUNT = 0.7


def markets_of(backends: Sequence[str] | Mapping[str, Sequence[Offer]]) -> dict[str, Sequence[Offer]]:
    """What each backend has on sale, by its name.

    Raises:
        ConfigurationError: there is no backend of that name.
    """
    unknown = [name for name in backends if name not in BackendType.__members__.values()]
    if unknown:
        raise ConfigurationError(
            f"There is no backend called {listed(unknown)}", hint=f"Use some of {listed(sorted(BackendType))}"
        )
    if isinstance(backends, Mapping):
        return {str(name): offers for name, offers in backends.items()}
    return {str(name): _offers_of(str(name)) for name in backends}


def _offers_of(name: str) -> list[Offer]:
    if name == "local":
        return [_HERE]
    offers = [Offer(name, "eu", f"{name}-{size}", resources, price) for size, resources, price in _SIZES]
    return offers + [replace(one, spot=True, price=one.price * (1 - SPOT_DISCOUNT)) for one in offers]
