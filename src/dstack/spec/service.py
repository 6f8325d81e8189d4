"""A service: commands that listen on a port, in as many replicas as the traffic needs."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from dstack.kit.ranges import Range, parse_count
from dstack.kit.text import shown
from dstack.spec.base import TEXT, Also, Conflict, Spec, Text, matching
from dstack.spec.ports import PortMapping
from dstack.spec.profile import Duration
from dstack.spec.run import JobSpec, RunFields, script_of

REPLICAS_MAX = 1000

HeaderName = Annotated[str, matching(r"[A-Za-z0-9-]+", "a header's name such as `Accept`")]
UrlPath = Annotated[str, matching(r"/[!-~]*", "a path such as `/health`")]


class Scaling(Spec):
    """How the number of replicas follows the traffic.

    Examples:
        >>> Scaling(metric="rps", target=10).scale_up_delay
        300
    """

    metric: Literal["rps"]
    """What is measured: `rps`, requests a second"""
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """How much of it each replica should have"""
    scale_up_delay: Duration = 300
    """How long to wait after a change before replicas are added, in seconds"""
    scale_down_delay: Duration = 600
    """How long to wait after a change before replicas are taken away, in seconds"""
    window: Duration | None = None
    """Over which time the metric is averaged, in seconds. One minute where unset"""


class OpenAIChatModel(Spec):
    """A model whose service speaks the OpenAI API by itself.

    Examples:
        >>> OpenAIChatModel(name="llama", format="openai").prefix
        '/v1'
    """

    type: Literal["chat"] = "chat"
    """What the model does"""
    name: str
    """What callers name it by"""
    format: Literal["openai"]
    """How the service speaks"""
    prefix: str = "/v1"
    """The path below which the service has the API"""


class TGIChatModel(Spec):
    """A model behind Text Generation Inference, whose chats are rendered to prompts on the way.

    Examples:
        >>> TGIChatModel(name="llama", format="tgi", eos_token="</s>").chat_template is None
        True
    """

    type: Literal["chat"] = "chat"
    """What the model does"""
    name: str
    """What callers name it by"""
    format: Literal["tgi"]
    """How the service speaks"""
    chat_template: str | None = None
    """The Jinja template that makes a prompt of a chat; the model's own where unset"""
    eos_token: str | None = None
    """The token that ends an answer; the model's own where unset"""


AnyModel: TypeAlias = OpenAIChatModel | TGIChatModel


def _model(value: object) -> object:
    if isinstance(value, str):
        return OpenAIChatModel(name=value, format="openai")
    if not isinstance(value, dict):
        return value
    kind = TGIChatModel if value.get("format") == "tgi" else OpenAIChatModel
    if value.get("format") not in ("tgi", "openai", None):
        raise ValueError(f"expected the `format` `openai` or `tgi`, found {shown(value['format'])}")
    return kind.model_validate(value)


class HTTPHeader(Spec):
    """A header of a probe's request.

    Examples:
        >>> HTTPHeader(name="Accept", value="text/plain").name
        'Accept'
    """

    name: HeaderName
    """Its name"""
    value: str
    """Its value"""


class Probe(Spec):
    """A request that tells whether a replica is ready.

    Examples:
        >>> Probe(type="http", url="/health").interval
        15
    """

    type: Literal["http"]
    """How is asked: `http`"""
    url: UrlPath = "/"
    """The path that is asked for"""
    method: Literal["get", "post", "put", "delete", "head", "patch"] = "get"
    """The request's method"""
    headers: list[HTTPHeader] = []
    """The request's headers"""
    body: str | None = None
    """The request's body"""
    timeout: Annotated[Duration, Field(ge=1)] = 10
    """How long an answer may take, in seconds"""
    interval: Annotated[Duration, Field(ge=1)] = 15
    """How long to wait between two requests, in seconds"""
    ready_after: Annotated[int, Field(ge=1, strict=True)] = 1
    """After how many good answers in a row the replica is ready"""
    until_ready: bool = False
    """Whether to stop asking once the replica is ready"""


class Router(Spec):
    """A router of requests to replicas that share a model.

    Examples:
        >>> Router(type="sglang").policy
        'cache_aware'
    """

    type: Literal["sglang"]
    """The router: `sglang`"""
    policy: Literal["random", "round_robin", "cache_aware", "power_of_two"] = "cache_aware"
    """How a replica is chosen"""
    pd_disaggregation: bool = False
    """Whether prefill and decode run on replicas of their own"""


class IPAddressKey(Spec):
    """Each caller's address has a limit of its own.

    Examples:
        >>> IPAddressKey(type="ip_address").type
        'ip_address'
    """

    type: Literal["ip_address"]
    """What tells callers apart: `ip_address`"""


class HeaderKey(Spec):
    """Each value of a header has a limit of its own.

    Examples:
        >>> HeaderKey(type="header", header="Authorization").header
        'Authorization'
    """

    type: Literal["header"]
    """What tells callers apart: `header`"""
    header: HeaderName
    """The header's name"""


def _key(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if value.get("type") not in ("ip_address", "header"):
        raise ValueError(f"expected the `type` `ip_address` or `header`, found {shown(value.get('type'))}")
    return (HeaderKey if value["type"] == "header" else IPAddressKey).model_validate(value)


class RateLimit(Spec):
    """How many requests a second are let through.

    Examples:
        >>> RateLimit(rps=4, prefix="/api/").burst
        0
    """

    prefix: UrlPath = "/"
    """For which paths: those that begin so"""
    key: Annotated[IPAddressKey | HeaderKey, BeforeValidator(_key)] = Field(
        default_factory=lambda: IPAddressKey(type="ip_address")
    )
    """What tells callers apart"""
    rps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Requests a second"""
    burst: Annotated[int, Field(ge=0, strict=True)] = 0
    """How many more may come at once"""


def _port(value: object) -> PortMapping:
    number = isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit())
    return PortMapping.parse(f"80:{value}" if number and not isinstance(value, bool) else value)


def _replicas(value: object) -> "Range[int]":
    if isinstance(value, list):
        raise ValueError("groups of replicas (a list) cannot run yet; expected a number or a range such as `1..8`")
    replicas = Range.parse(value, parse_count)
    if replicas.max is None:
        raise ValueError(f"expected how many replicas there may be at most, as in `1..8`, found {shown(value)}")
    if replicas.max > REPLICAS_MAX:
        raise ValueError(f"expected at most {REPLICAS_MAX} replicas, found {shown(value)}")
    return Range(replicas.min or 0, replicas.max)


def _gateway(value: object) -> object:
    if value is True or (value is not False and value is not None and not isinstance(value, str)):
        raise ValueError(f"expected the name of a gateway, or `false` for none, found {shown(value)}")
    return value


class Service(RunFields):
    """A run that answers requests, until it is stopped.

    Raises:
        pydantic.ValidationError: fields do not fit; names each, with what was expected.

    Examples:
        >>> service = Service(port=8000, commands=["python -m http.server 8000"], replicas="1..4",
        ...                   scaling={"metric": "rps", "target": 10})
        >>> str(service.port), service.replicas.max
        ('80:8000', 4)
    """

    type: Literal["service"] = "service"
    """What kind of configuration it is"""
    port: Annotated[PortMapping, BeforeValidator(_port)]
    """The port that the job listens on, or `outside:job`; `8000` means `80:8000`"""
    gateway: Annotated[str | Literal[False] | None, BeforeValidator(_gateway)] = None
    """The name of the gateway that publishes it, `false` for none; the project's default one where unset"""
    model: Annotated[AnyModel | None, BeforeValidator(_model), Also((TEXT,))] = None
    """The model behind the service, for the OpenAI-shaped endpoint: its name, or how it speaks"""
    https: bool | Literal["auto"] = True
    """Whether a gateway publishes it by HTTPS; `auto` for as the gateway does"""
    auth: bool = True
    """Whether callers need a token of a member of the project"""
    replicas: Annotated[Range[int], BeforeValidator(_replicas)] = Range(1, 1)
    """How many replicas there are: a number, or a range such as `0..4`, which needs `scaling`"""
    scaling: Scaling | None = None
    """How the number of replicas follows the traffic; needed where `replicas` is a range"""
    router: Router | None = None
    """What spreads requests over the replicas by their content"""
    strip_prefix: bool = True
    """Whether the service sees paths without the part that leads to it"""
    probes: list[Probe] = []
    """What tells whether a replica is ready"""
    rate_limits: list[RateLimit] = []
    """How many requests are let through"""
    commands: list[Text] = []
    """What the shell runs, one after the other"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        if not written.get("commands") and written.get("image") is None:
            yield Conflict(None, "expected `commands` or `image`, found neither: there is nothing to run")
        if written.get("scaling") is None and _is_range(written.get("replicas")):
            yield Conflict("replicas", "expected `scaling` beside a range of replicas, found none")

    def jobs(self) -> tuple[JobSpec, ...]:
        """One job for each replica of the least number."""
        script = script_of(self.commands)
        return tuple(JobSpec(replica, 0, 1, script) for replica in range(self.replicas.min or 0))

    def port_mappings(self) -> tuple[PortMapping, ...]:
        """The service's port, at any local one."""
        return (PortMapping(None, self.port.container_port),)


def _is_range(replicas: object) -> bool:
    try:
        parsed = _replicas(replicas)
    except ValueError:
        return False
    return parsed.min != parsed.max
