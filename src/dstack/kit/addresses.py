"""Addresses of the network, as they are written."""


def authority(host: str, port: int) -> str:
    """Return host and port as a URL has them.

    Examples:
        >>> authority("localhost", 80), authority("::1", 80)
        ('localhost:80', '[::1]:80')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason_of(error: Exception) -> str:
    """Return why the system refused an address, in its words without the error's number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
