"""A gateway: a small machine with a public address, behind which services are published."""

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
    """A certificate from Let's Encrypt, asked for and renewed by the gateway.

    Examples:
        >>> LetsEncryptCertificate(type="lets-encrypt").type
        'lets-encrypt'
    """

    type: Literal["lets-encrypt"]
    """Where the certificate comes from: `lets-encrypt`"""


class ACMCertificate(Spec):
    """A certificate that AWS keeps, for a load balancer before the gateway.

    Examples:
        >>> ACMCertificate(type="acm", arn="arn:aws:acm:eu-west-1:1:certificate/1").type
        'acm'
    """

    type: Literal["acm"]
    """Where the certificate comes from: `acm`"""
    arn: Annotated[str, matching(r"arn:\S+", "a name such as `arn:aws:acm:…`")]
    """The certificate's name at AWS"""


def _certificate(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if value.get("type") not in ("lets-encrypt", "acm"):
        raise ValueError(f"expected the `type` `lets-encrypt` or `acm`, found {shown(value.get('type'))}")
    return (ACMCertificate if value["type"] == "acm" else LetsEncryptCertificate).model_validate(value)


class Gateway(Spec):
    """What publishes services under a domain.

    Raises:
        pydantic.ValidationError: fields do not fit; names each, with what was expected.

    Examples:
        >>> Gateway(name="front", backend="aws", region="eu-west-1", domain="example.com").domain
        'example.com'
    """

    type: Literal["gateway"] = "gateway"
    """What kind of configuration it is"""
    name: Name | None = None
    """The gateway's name; a random one where unset"""
    default: bool = False
    """Whether services that name no gateway are published by it"""
    backend: BackendType
    """Where its machine is made"""
    region: str
    """In which region"""
    instance_type: str | None = None
    """The type of its machine, by the backend's own name; a small one where unset"""
    domain: Annotated[str, matching(DOMAIN, "a domain such as `example.com`")] | None = None
    """The domain below which services get their names; its records point to the gateway"""
    replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX, strict=True)] = 1
    """How many machines publish services"""
    router: Router | None = None
    """What spreads requests over the replicas of services by their content"""
    public_ip: bool = True
    """Whether it has a public address"""
    certificate: Annotated[LetsEncryptCertificate | ACMCertificate | None, BeforeValidator(_certificate)] = Field(
        default_factory=lambda: LetsEncryptCertificate(type="lets-encrypt")
    )
    """Where its certificate comes from; `null` for none"""
    tags: Tags = {}
    """Words that are kept with what is made for it at a cloud"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        certificate = written.get("certificate")
        kind = certificate.get("type") if isinstance(certificate, dict) else getattr(certificate, "type", None)
        if kind == "acm" and written.get("backend") not in (None, "aws"):
            yield Conflict("certificate", "expected a certificate of another type, since AWS alone has `acm`")
