"""The backends that dstack knows by name. One member here and one module in `dstack.backends` make a backend."""

from enum import StrEnum


class BackendType(StrEnum):
    """Where machines come from.

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
    """The later name of `ssh` in listings: hosts of one's own"""
    RUNPOD = "runpod"
    """Runpod Cloud"""
    SSH = "ssh"
    """Hosts of one's own that are reached by SSH"""
    TENSORDOCK = "tensordock"
    """TensorDock Marketplace"""
    VASTAI = "vastai"
    """Vast.ai Marketplace"""
    VERDA = "verda"
    """Verda, the later name of DataCrunch"""
    VULTR = "vultr"
    """Vultr"""
