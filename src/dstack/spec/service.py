"""A service: commands that listen at a port, with a number of replicas that follows the traffic."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from dstack.kit.ranges import Range, parse_count
from dstack.kit.text import shown
from dstack.spec.base import TEXT, Also, Conflict, Spec, Text, matching
from dstack.spec.ports import PortMapping
from dstack.spec.profile import Duration
from dstack.spec.run import JobSpec, RunFields, nothing_to_run, script_of

REPLICAS_MAX = 1000
PROBES_MAX = 10
"""Each looks by itself, on the host of each replica."""

HeaderName = Annotated[str, matching(r"[A-Za-z0-9-]+", "a header's name such as `Accept`")]
UrlPath = Annotated[str, matching(r"/[!-~]*", "a path such as `/health`")]


class Scaling(Spec):
    """The rules by which the number of replicas follows the traffic.

    Examples:
        >>> Scaling(metric="rps", target=10).scale_up_delay
        300
    """

    metric: Literal["rps", "concurrency"]
    """The metric: `rps`, requests a second, or `concurrency`, requests in flight"""
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The target value of the metric for each replica"""
    scale_up_delay: Duration = 300
    """The delay after a change before replicas are added, in seconds or as `5m`"""
    scale_down_delay: Duration = 600
    """The delay after a change before replicas are removed, in seconds or as `10m`"""
    window: Duration | None = None
    """The time over which the metric is averaged, in seconds or as `1m`. One minute by default"""


class OpenAIChatModel(Spec):
    """A model behind a service that has the OpenAI API itself.

    Examples:
        >>> OpenAIChatModel(name="llama", format="openai").prefix
        '/v1'
    """

    type: Literal["chat"] = "chat"
    """The task of the model: `chat`"""
    name: str
    """The name of the model in requests"""
    format: Literal["openai"]
    """The API of the service: `openai`"""
    prefix: UrlPath = "/v1"
    """The path prefix of the API"""


class TGIChatModel(Spec):
    """A model behind Text Generation Inference. Chats are converted to prompts.

    Examples:
        >>> TGIChatModel(name="llama", format="tgi", eos_token="</s>").chat_template is None
        True
    """

    type: Literal["chat"] = "chat"
    """The task of the model: `chat`"""
    name: str
    """The name of the model in requests"""
    format: Literal["tgi"]
    """The API of the service: `tgi`"""
    chat_template: str | None = None
    """The Jinja template that converts a chat to a prompt. The model's own by default"""
    eos_token: str | None = None
    """The token that ends an answer. The model's own by default"""


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
    """The header's name"""
    value: Text
    """The header's value"""


class Probe(Spec):
    """A request that checks whether a replica is ready.

    Examples:
        >>> Probe(type="http", url="/health").interval
        15
    """

    type: Literal["http"]
    """The type of the probe: `http`"""
    url: UrlPath = "/"
    """The request's path"""
    method: Literal["get", "post", "put", "delete", "head", "patch"] = "get"
    """The request's method"""
    headers: list[HTTPHeader] = []
    """The request's headers"""
    body: str | None = None
    """The request's body"""
    timeout: Annotated[Duration, Field(ge=1)] = 10
    """The time-out of the request, in seconds or as `10s`"""
    interval: Annotated[Duration, Field(ge=1)] = 15
    """The time between two requests, in seconds or as `15s`"""
    ready_after: Annotated[int, Field(ge=1, strict=True)] = 1
    """The number of successful answers in a row after which the replica is ready"""
    until_ready: bool = False
    """Whether the probe stops once the replica is ready"""


class Router(Spec):
    """A router that distributes requests to the replicas of a model by their content.

    Examples:
        >>> Router(type="sglang").policy
        'cache_aware'
    """

    type: Literal["sglang"]
    """The router: `sglang`"""
    policy: Literal["random", "round_robin", "cache_aware", "power_of_two"] = "cache_aware"
    """The policy that chooses a replica: `random`, `round_robin`, `cache_aware` or `power_of_two`"""
    pd_disaggregation: bool = False
    """Whether prefill and decode run on separate replicas"""


class IPAddressKey(Spec):
    """A separate limit for each client address.

    Examples:
        >>> IPAddressKey(type="ip_address").type
        'ip_address'
    """

    type: Literal["ip_address"]
    """The type of the key: `ip_address`"""


class HeaderKey(Spec):
    """A separate limit for each value of a header.

    Examples:
        >>> HeaderKey(type="header", header="Authorization").header
        'Authorization'
    """

    type: Literal["header"]
    """The type of the key: `header`"""
    header: HeaderName
    """The header's name"""


def _key(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if value.get("type") not in ("ip_address", "header"):
        raise ValueError(f"expected the `type` `ip_address` or `header`, found {shown(value.get('type'))}")
    return (HeaderKey if value["type"] == "header" else IPAddressKey).model_validate(value)


class RateLimit(Spec):
    """A limit of requests a second.

    Examples:
        >>> RateLimit(rps=4, prefix="/api/").burst
        0
    """

    prefix: UrlPath = "/"
    """The path prefix to which the limit applies"""
    key: Annotated[IPAddressKey | HeaderKey, BeforeValidator(_key)] = Field(
        default_factory=lambda: IPAddressKey(type="ip_address")
    )
    """The key by which clients are counted: the client's address by default, or a header"""
    rps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The limit, in requests a second"""
    burst: Annotated[int, Field(ge=0, strict=True)] = 0
    """The number of requests that may exceed the limit at once"""


def _port(value: object) -> PortMapping:
    number = isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit())
    return PortMapping.parse(f"80:{value}" if number and not isinstance(value, bool) else value)


def _replicas(value: object) -> "Range[int]":
    if isinstance(value, list):
        raise ValueError(
            "groups of replicas (a list) are not supported yet; expected a number or a range such as `1..8`"
        )
    replicas = Range.parse(value, parse_count)
    if replicas.max is None:
        raise ValueError(f"expected how many replicas there may be at most, as in `1..8`, found {shown(value)}")
    if replicas.max > REPLICAS_MAX:
        raise ValueError(f"expected at most {REPLICAS_MAX} replicas, found {shown(value)}")
    return Range(replicas.min or 0, replicas.max)


def _few_probes(probes: list[Probe]) -> list[Probe]:
    if len(probes) > PROBES_MAX:
        raise ValueError(f"expected at most {PROBES_MAX} probes, found {len(probes)}")
    return probes


def _gateway(value: object) -> object:
    if value is True or (value is not False and value is not None and not isinstance(value, str)):
        raise ValueError(f"expected the name of a gateway, or `false` for none, found {shown(value)}")
    return value


class Service(RunFields):
    """A run that answers requests until it is stopped: model serving, web applications.

    Raises:
        pydantic.ValidationError: fields are invalid. Lists each, with the expected form.

    Examples:
        >>> service = Service(port=8000, commands=["python -m http.server 8000"], replicas="1..4",
        ...                   scaling={"metric": "rps", "target": 10})
        >>> str(service.port), service.replicas.max
        ('80:8000', 4)
    """

    type: Literal["service"] = "service"
    """The type of the configuration: `service`"""
    port: Annotated[PortMapping, BeforeValidator(_port)]
    """The port at which the job listens, or `public port:job's port`; `8000` means `80:8000`"""
    gateway: Annotated[str | Literal[False] | None, BeforeValidator(_gateway)] = None
    """The name of the gateway that publishes the service, `false` for none. The project's default gateway by default"""
    model: Annotated[AnyModel | None, BeforeValidator(_model), Also((TEXT,))] = None
    """The model behind the service, for the OpenAI-compatible endpoint: its name, or a mapping with its API"""
    https: bool | Literal["auto"] = True
    """Whether the gateway publishes the service by HTTPS; `auto` uses the gateway's setting"""
    auth: bool = True
    """Whether requests need a token of a project member"""
    replicas: Annotated[Range[int], BeforeValidator(_replicas)] = Range(1, 1)
    """The number of replicas, or a range such as `0..4`, which requires `scaling`"""
    scaling: Scaling | None = None
    """The rules by which the number of replicas follows the traffic. Required if `replicas` is a range"""
    router: Router | None = None
    """The router that distributes requests to the replicas by their content"""
    strip_prefix: bool = True
    """Whether to remove the service's path prefix from requests"""
    probes: Annotated[list[Probe], AfterValidator(_few_probes)] = []
    """Requests that check whether a replica is ready"""
    rate_limits: list[RateLimit] = []
    """Limits of requests a second"""
    commands: list[Text] = []
    """The shell commands, run in order"""

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        yield from nothing_to_run(written)
        if written.get("scaling") is None and _is_range(written.get("replicas")):
            yield Conflict("replicas", "expected `scaling` beside a range of replicas, found none")

    def jobs(self) -> tuple[JobSpec, ...]:
        """Return one job for each replica of the least number."""
        return tuple(JobSpec(replica, 0, 1) for replica in range(self.replicas.min or 0))

    def script(self) -> str:
        """Return the commands as a script."""
        return script_of(self.commands)

    def port_mappings(self) -> tuple[PortMapping, ...]:
        """Return the service's port, forwarded to any free local port."""
        return (PortMapping(None, self.port.container_port),)


def _is_range(replicas: object) -> bool:
    try:
        parsed = _replicas(replicas)
    except ValueError:
        return False
    return parsed.min != parsed.max
