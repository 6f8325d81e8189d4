"""Reports of agents as texts for people."""

from collections.abc import Sequence

from dstack.kit.text import size_text
from dstack.protocol.agent import Layer


def expected_bytes(layers: Sequence[Layer]) -> int | None:
    """Return the size of all layers, where unknown ones count as the average of the others; None if all are unknown.

    Layers that were here before count for nothing.

    Examples:
        >>> expected_bytes((Layer("a", 0, 10, False), Layer("b", 0, None, False), Layer("c", 0, None, True)))
        20
    """
    sizes = [layer.size_bytes for layer in layers if layer.size_bytes]
    unknown = sum(layer.size_bytes is None and not layer.ready for layer in layers)
    return round(sum(sizes) * (1 + unknown / len(sizes))) if sizes else None


def pull_text(layers: Sequence[Layer]) -> str:
    """Return the progress of an image pull.

    Examples:
        >>> pull_text((Layer("a", 5_000_000, 10_000_000, False), Layer("b", 1_000_000, 1_000_000, True)))
        'pulling the image: 6.0 MB of 11.0 MB, 1 of 2 layers'
        >>> pull_text((Layer("a", 0, None, False),))
        'pulling the image: 0 of 1 layers'
    """
    got, size = sum(layer.got_bytes for layer in layers), expected_bytes(layers)
    known = f"{size_text(got)} of {size_text(size)}, " if size else ""
    return f"pulling the image: {known}{sum(layer.ready for layer in layers)} of {len(layers)} layers"
