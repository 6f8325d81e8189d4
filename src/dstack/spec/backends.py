"""The names of the backends. A backend is one member here and one module in `dstack.backends`."""

from enum import StrEnum


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
