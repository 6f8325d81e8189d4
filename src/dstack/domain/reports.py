"""What agents report, in words for people."""

from dstack.protocol.agent import Layer


def size_text(size_bytes: float) -> str:
    """Bytes for people.

    Examples:
        >>> size_text(1_234_567), size_text(2e9)
        ('1.2 MB', '2000.0 MB')
    """
    return f"{size_bytes / 1e6:.1f} MB"


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
