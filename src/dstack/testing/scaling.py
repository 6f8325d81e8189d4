"""Watches the requests of services, and asks the rules about replicas whose number follows the traffic.

The rules about time are asked where what is due can be expected to be done at its time.
"""

import asyncio
from collections.abc import Callable, Sequence

from dstack.domain.drains import SCALE_IN_FOR
from dstack.protocol.statuses import JobReason, RunStatus
from dstack.testing.clients import Request
from dstack.testing.ledger import Ledger, ReplicaRow, Scaling, ServiceRow

KNOWN_AFTER_S = 45.0
"""A request that was reported so long ago is on record: a server that has died meanwhile is back."""
PROMPT_WITHIN_S = 20.0
"""A held request wakes its service within so long, without anybody having to look around."""
SLACK_S = 15.0
"""Stored traffic is as exact as this."""
CALM_WITHIN_S, AWAY_WITHIN_S = 300.0, 1800.0
"""So long after its time, a decision has been taken; the second where servers may be away."""
_TAKES_REQUESTS = {RunStatus.SUBMITTED, RunStatus.PROVISIONING, RunStatus.RUNNING}


class ScalingWatch:
    """The eye on the requests of one world.

    Args:
        blame: gets the name of a rule, and how it is broken if it is.
        is_punctual: whether what is due can be expected to be done at its time.
    """

    def __init__(self, ledger: Ledger, blame: Callable[[str, str | None], None], *, is_punctual: bool) -> None:
        self._ledger = ledger
        self._blame = blame
        self._is_punctual = is_punctual
        self._in_flight: dict[str, dict[Request, None]] = {}
        self._reported_s: dict[str, float] = {}
        """When a server last heard of a request that was new."""
        self._decided_s: dict[str, float] = {}
        """When a service has decided on the traffic that is on record."""
        self._busy_s: dict[str, float] = {}
        """When a service last had a request."""

    def came(self, request: Request) -> None:
        """A request has arrived at a data plane."""
        self._in_flight.setdefault(request.service_id, {})[request] = None
        self._busy_s[request.service_id] = _now_s()

    def ended(self, request: Request) -> None:
        """A request has ended: it is answered, refused or broken."""
        self._in_flight[request.service_id].pop(request, None)
        self._busy_s[request.service_id] = _now_s()

    def reported(self, service_id: str) -> None:
        """A server hears of new requests for a service."""
        self._reported_s[service_id] = _now_s()

    def stored(self, service_id: str) -> None:
        """The requests of a service are on record."""
        self._decided_s.pop(service_id, None)

    def held(self, request: Request, ready: frozenset[str] = frozenset()) -> None:
        """A request is held from now on: look at it now and then."""
        if self._is_punctual:
            asyncio.get_running_loop().call_later(PROMPT_WITHIN_S, self._look_at_held, request, ready)

    def _look_at_held(self, request: Request, ready: frozenset[str]) -> None:
        service = self._ledger.service(request.service_id)
        if request.job_id is not None or request not in self._in_flight[request.service_id] or service is None:
            return
        now_ready = frozenset(one.id for one in self._ledger.replicas(service.id) if takes_requests(one))
        held_s = _now_s() - request.arrived_s
        self._blame("held_requests_are_served", held_requests_are_served(service, held_s, ready & now_ready))
        self.held(request, now_ready)

    def refused(self, request: Request, *, is_punctual: bool) -> None:
        """A data plane has no replica for a request, and none that starts."""
        service = self._ledger.service(request.service_id)
        if service is not None and is_punctual and self._is_punctual:
            replicas = self._ledger.replicas(service.id)
            self._blame("requests_at_zero_are_held", requests_at_zero_are_held(service, replicas, _now_s()))

    def cut(self, job_id: str, requests: int, server_id: str) -> None:
        """A replica was stopped, and its requests with it."""
        replica = self._ledger.replica(job_id)
        if replica is not None and server_id in self._ledger.data_planes(_now_s()):
            self._blame("busy_replicas_stay", busy_replicas_stay(replica, requests, _now_s()))

    def decided(self, service_id: str) -> None:
        """A decision about the number of replicas was committed."""
        service, scalings = self._ledger.service(service_id), self._ledger.scalings(service_id)
        if service is None:
            return
        before_s, self._decided_s[service_id] = self._decided_s.get(service_id), scalings[-1].at_s
        self._blame("decisions_are_taken_once", decisions_are_taken_once(service, scalings, before_s))
        if self._is_punctual and scalings[-1].after == 0:
            in_flight = self._in_flight.get(service_id, {})
            since_s = min((request.arrived_s for request in in_flight), default=None)
            busy = traffic_keeps_a_replica(service, since_s, self._reported_s.get(service_id), _now_s())
            self._blame("traffic_keeps_a_replica", busy)

    def look_around(self) -> None:
        """Ask about all services."""
        for service in self._ledger.services():
            if not self._in_flight.get(service.id) and service.status in _TAKES_REQUESTS:
                quiet_s = _now_s() - max(self._busy_s.get(service.id, 0.0), service.revised_at_s)
                late_s = CALM_WITHIN_S if self._is_punctual else AWAY_WITHIN_S
                self._blame("quiet_services_shrink", quiet_services_shrink(service, quiet_s, late_s))


def takes_requests(replica: ReplicaRow) -> bool:
    """Return whether a replica is ready on record, and stays."""
    return replica.is_ready and replica.stop_asked is None


def decisions_are_taken_once(
    service: ServiceRow, scalings: Sequence[Scaling], same_traffic_s: float | None
) -> str | None:
    """Each decision begins with the number of the one before. No two of the same moment have the same traffic.

    Args:
        scalings: all decisions.
        same_traffic_s: the time of another decision on the same traffic.
    """
    last = scalings[-1]
    if service.scale is None or service.scale.asked != last.after:
        return f"{service.name} has {service.scale} on record after the decision {last}"
    before = scalings[-2] if len(scalings) > 1 else None
    if before is None or last.at_s < service.revised_at_s or before.at_s <= service.revised_at_s:
        return None
    if before.after != last.before:
        return f"{service.name} has the decisions {before} and {last}"
    return f"{service.name} has the decisions {before} and {last} at once" if same_traffic_s == last.at_s else None


def held_requests_are_served(service: ServiceRow, held_s: float, ready: frozenset[str]) -> str | None:
    """A held request brings a replica, and goes to the first one that is ready.

    Args:
        ready: the replicas that have been ready for a while.
    """
    if ready:
        return f"a request for {service.name} is held for {held_s:.0f} s, and {', '.join(sorted(ready))} are ready"
    if service.status in _TAKES_REQUESTS and service.scale is not None and not service.scale.asked:
        return f"a request for {service.name} is held for {held_s:.0f} s, and no replica is asked for"
    return None


def requests_at_zero_are_held(service: ServiceRow, replicas: Sequence[ReplicaRow], now_s: float) -> str | None:
    """A service without replicas that scales refuses no request: the first one starts a replica."""
    scale = service.scale
    rests = scale is not None and not scale.asked and now_s - max(scale.since_s, service.revised_at_s) > SLACK_S
    if not rests or service.status != RunStatus.RUNNING or any(map(takes_requests, replicas)):
        return None
    return f"a request for {service.name} is refused, which has scaled to zero"


def busy_replicas_stay(replica: ReplicaRow, requests: int, now_s: float) -> str | None:
    """A replica that is no longer needed ends after its requests, or after a day."""
    since_s = replica.draining_since_s
    is_over = since_s is not None and now_s - since_s >= SCALE_IN_FOR.total_seconds()
    if replica.stop_asked != JobReason.SCALED_DOWN or is_over:
        return None
    return f"replica {replica.number} ({replica.id}) is scaled down while it has {requests} requests"


def traffic_keeps_a_replica(
    service: ServiceRow, in_flight_since_s: float | None, reported_s: float | None, now_s: float
) -> str | None:
    """A service with requests keeps a replica; so does one that had some within its down delay."""
    if in_flight_since_s is not None and now_s - in_flight_since_s > KNOWN_AFTER_S:
        return f"{service.name} scales to zero while a request is in flight since {in_flight_since_s:.0f} s"
    if reported_s is None:
        return None
    quiet_s = now_s - reported_s
    if not KNOWN_AFTER_S < quiet_s < service.down_delay_s - SLACK_S:
        return None
    return f"{service.name} scales to zero {quiet_s:.0f} s after a request, and its delay is {service.down_delay_s} s"


def quiet_services_shrink(service: ServiceRow, quiet_s: float, late_s: float) -> str | None:
    """A service without requests has its fewest replicas after its down delay."""
    bound_s = service.down_delay_s + 2 * service.window_s + late_s
    if service.scale is None or service.scale.asked <= service.least or quiet_s <= bound_s:
        return None
    return f"{service.name} asks for {service.scale.asked} replicas, {quiet_s:.0f} s after its last request"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
