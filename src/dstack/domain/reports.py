"""What agents report, in words for people."""

from dstack.kit.text import size_text
from dstack.protocol.agent import Layer


def pull_text(layers: tuple[Layer, ...]) -> str:
    """How far an image is.

    Examples:
        >>> pull_text((Layer("a", 5_000_000, 10_000_000, False), Layer("b", 1_000_000, 1_000_000, True)))
        'pulling the image: 6.0 MB of 11.0 MB, 1 of 2 layers'
        >>> pull_text((Layer("a", 0, None, False),))
        'pulling the image: 0 of 1 layers'
    """
    got, size = sum(layer.got_bytes for layer in layers), sum(layer.size_bytes or 0 for layer in layers)
    known = f"{size_text(got)} of {size_text(size)}, " if size else ""
    return f"pulling the image: {known}{sum(layer.ready for layer in layers)} of {len(layers)} layers"
