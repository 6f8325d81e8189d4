"""The types of backends. A type is one member here and one module in `dstack.backends`."""

from collections.abc import Collection
from enum import StrEnum

from dstack.kit.text import listed, nearest


class BackendType(StrEnum):
    """A source of machines: a cloud, the user's own hosts, or the server's machine.

    Examples:
        >>> BackendType("aws") is BackendType.AWS
        True
    """

    AMDDEVCLOUD = "amddevcloud"
    """AMD Developer Cloud"""
    AWS = "aws"
    """Amazon Web Services"""
    AZURE = "azure"
    """Microsoft Azure"""
    CLOUDRIFT = "cloudrift"
    """CloudRift"""
    CRUSOE = "crusoe"
    """Crusoe Cloud"""
    CUDO = "cudo"
    """Cudo"""
    DIGITALOCEAN = "digitalocean"
    """DigitalOcean"""
    DSTACK = "dstack"
    """dstack Sky"""
    GCP = "gcp"
    """Google Cloud Platform"""
    DATACRUNCH = "datacrunch"
    """DataCrunch"""
    HOTAISLE = "hotaisle"
    """Hot Aisle"""
    KUBERNETES = "kubernetes"
    """Kubernetes"""
    LAMBDA = "lambda"
    """Lambda Cloud"""
    LOCAL = "local"
    """The machine on which the server runs"""
    NEBIUS = "nebius"
    """Nebius AI Cloud"""
    OCI = "oci"
    """Oracle Cloud Infrastructure"""
    REMOTE = "remote"
    """The later name of `ssh` in listings: the user's own hosts"""
    RUNPOD = "runpod"
    """Runpod Cloud"""
    SSH = "ssh"
    """The user's own hosts, reached by SSH"""
    TENSORDOCK = "tensordock"
    """TensorDock Marketplace"""
    VASTAI = "vastai"
    """Vast.ai Marketplace"""
    VERDA = "verda"
    """Verda, the later name of DataCrunch"""
    VULTR = "vultr"
    """Vultr"""


def is_type(word: str) -> bool:
    """Return whether a word is the type of a backend."""
    return word in BackendType.__members__.values()


def why_unknown(word: str, names: Collection[str]) -> str | None:
    """Return the mistake in a word that is neither a type nor one of some names; None for a known word.

    Args:
        word: an entry of `backends`.
        names: the names of the backends that may be used.

    Examples:
        >>> why_unknown("research", ["research"]) is None and why_unknown("aws", []) is None
        True
        >>> (why_unknown("reserch", ["research"]) or "").partition(" Types")[0]
        'there is no backend `reserch`; did you mean `research`? Names: `research`.'
    """
    if is_type(word) or word in names:
        return None
    own = sorted(name for name in names if not is_type(name))
    guess = nearest(word, [*own, *BackendType])
    advice = f"; did you mean `{guess}`?" if guess else "."
    known = f" Names: {listed(own)}." if own else ""
    return f"there is no backend `{word}`{advice}{known} Types: {listed(BackendType)}"
