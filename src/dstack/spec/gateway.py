"""A gateway: a small machine with a public address that publishes services."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dstack.kit.text import shown
from dstack.spec.backends import BackendType
from dstack.spec.base import Conflict, Spec, matching
from dstack.spec.profile import Name, Tags
from dstack.spec.service import REPLICAS_MAX, Router

DOMAIN = r"(?=.{1,253}$)(\*\.)?([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,63}"


class LetsEncryptCertificate(Spec):
    """A certificate from Let's Encrypt, requested and renewed by the gateway.

    Examples:
        >>> LetsEncryptCertificate(type="lets-encrypt").type
        'lets-encrypt'
    """

    type: Literal["lets-encrypt"]
    """The source of the certificate: `lets-encrypt`"""


class ACMCertificate(Spec):
    """A certificate in AWS Certificate Manager, for a load balancer in front of the gateway.

    Examples:
        >>> ACMCertificate(type="acm", arn="arn:aws:acm:eu-west-1:1:certificate/1").type
        'acm'
    """

    type: Literal["acm"]
    """The source of the certificate: `acm`"""
    arn: Annotated[str, matching(r"arn:\S+", "a name such as `arn:aws:acm:…`")]
    """The certificate's ARN"""


def _certificate(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if value.get("type") not in ("lets-encrypt", "acm"):
        raise ValueError(f"expected the `type` `lets-encrypt` or `acm`, found {shown(value.get('type'))}")
    return (ACMCertificate if value["type"] == "acm" else LetsEncryptCertificate).model_validate(value)


class Gateway(Spec):
    """A machine that publishes services under a domain.

    Raises:
        pydantic.ValidationError: fields are invalid. Lists each, with the expected form.

    Examples:
        >>> Gateway(name="front", backend="aws", region="eu-west-1", domain="example.com").domain
        'example.com'
    """

    type: Literal["gateway"] = "gateway"
    """The type of the configuration: `gateway`"""
    name: Name | None = None
    """The gateway's name. A random name by default"""
    default: bool = False
    """Whether the gateway publishes services that name no gateway"""
    backend: BackendType
    """The backend of the gateway's machine"""
    region: str
    """The region of the gateway's machine"""
    instance_type: str | None = None
    """The instance type of the machine, by the backend's own name. A small one by default"""
    domain: Annotated[str, matching(DOMAIN, "a domain such as `example.com`")] | None = None
    """The domain of the services' names. Its DNS records must point to the gateway"""
    replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX, strict=True)] = 1
    """The number of machines of the gateway"""
    router: Router | None = None
    """The router that distributes requests to the replicas of services by their content"""
    public_ip: bool = True
    """Whether the gateway has a public address"""
    certificate: Annotated[LetsEncryptCertificate | ACMCertificate | None, BeforeValidator(_certificate)] = Field(
        default_factory=lambda: LetsEncryptCertificate(type="lets-encrypt")
    )
    """The source of the certificate; `null` for no certificate"""
    tags: Tags = {}
    """Tags of all that is created for the gateway at a cloud: up to 50 names with values"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        certificate = written.get("certificate")
        kind = certificate.get("type") if isinstance(certificate, dict) else getattr(certificate, "type", None)
        if kind == "acm" and written.get("backend") not in (None, "aws"):
            yield Conflict("certificate", "expected a certificate of another type, since AWS alone has `acm`")
