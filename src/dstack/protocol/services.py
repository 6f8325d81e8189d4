"""Views of the public side of a service: its addresses, requests, scaling and cost."""

from dstack.protocol.base import Time, View


class ServiceModelView(View, frozen=True, kw_only=True):
    """The model behind a service."""

    name: str
    """The value of `model` in requests."""
    url: str
    """The path of the project's OpenAI-compatible API: the `base_url` of a client, behind the server's URL."""


class TrafficView(View, frozen=True, kw_only=True):
    """The requests of a service. A request counts once it is answered."""

    requests: int
    """All since the service was submitted."""
    errors: int
    """Those of them with an answer of status 500 or more, or with an incomplete answer."""
    requests_per_s: float
    """The requests a second over the last minute."""
    errors_per_s: float
    """The errors a second over the last minute."""
    in_flight: int
    """The requests that are being answered, or wait for a replica."""
    held: int = 0
    """Those of them that wait for a replica."""
    latency_p50_s: float | None
    """The median time to the first byte of an answer, in seconds, over the last minute; None without requests."""
    latency_p95_s: float | None
    """The time within which 95 % of the answers began; as above."""


class ScalingView(View, frozen=True, kw_only=True):
    """The rules by which the number of a service's replicas follows its traffic, and the latest decision."""

    minimum: int
    maximum: int
    metric: str
    """`rps`: requests a second; `concurrency`: requests in flight."""
    target: float
    """The value of the metric for each replica."""
    since: Time | None
    """The time of the latest decision, whose number is `replicas_asked`; None before the first."""
    why: str
    """A text for people: its reason with the numbers. Empty where the service began with that number."""


class CostView(View, frozen=True, kw_only=True):
    """The cost of a service since its submission: that of all attempts of all replicas.

    A replica counts from its start to its end, with the price of its machine. The time in which a machine boots, pulls
    the image or is idle is not included.
    """

    replica_hours: float
    dollars: float
    """In US dollars."""
    dollars_per_hour: float
    """The present price of the replicas that run, in US dollars an hour."""


class ServiceView(View, frozen=True, kw_only=True):
    """The public side of a service."""

    url: str
    """The path of the service, behind the server's URL. It ends with a slash."""
    auth: bool
    """Whether requests need a token of a project member."""
    model: ServiceModelView | None = None
    """The model behind the service; None without one."""
    is_rolling: bool = False
    """Whether a rollout goes on: replicas of the current revision replace those of earlier ones."""
    waits_for: str = ""
    """A text for people: the reason why no replica is ready; empty if one is."""
    traffic: TrafficView | None = None
    """The requests; None in the answer to a submit, stop or update."""
    scaling: ScalingView | None = None
    """The range of replicas and the latest decision; None where their number is fixed."""
    cost: CostView | None = None
    """The cost so far; None as for `traffic`."""
