"""The services that the data plane knows, and the callers that may use them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

from msgspec.structs import replace

from dstack.protocol.proxy import EVERY_PROJECT, SERVICES_PREFIX, Changes, Service, Snapshot
from dstack.proxy.balance import Replicas, ReplicaState
from dstack.proxy.counts import Sums
from dstack.proxy.limits import Bucket

CALLERS_MAX = 10_000
"""The bound of remembered `Authorization` headers."""


class Route:
    """One service as it is now. It stays the same object while the service exists, so that its sums go on."""

    __slots__ = ("buckets", "holds", "needs_token", "prefix", "replicas", "service", "strips_prefix", "sums")

    def __init__(self, service: Service, replicas: Replicas) -> None:
        self.sums = Sums()
        self.replicas = replicas
        self.buckets: tuple[Bucket, ...] = ()
        self.follow(service)

    def follow(self, service: Service) -> None:
        """Take over a new state of the service. Limits that stay as they were go on counting."""
        former = {bucket.limit: bucket for bucket in self.buckets}
        self.service = service
        self.holds = service.starts
        """Whether requests wait for a replica: not once some have waited in vain."""
        self.needs_token = service.auth
        self.strips_prefix = service.strip_prefix
        self.prefix = f"{SERVICES_PREFIX}{service.project}/{service.name}".encode()
        limits = sorted(service.limits, key=lambda limit: -len(limit.prefix))
        self.buckets = tuple(former.get(limit) or Bucket(limit) for limit in limits)
        self.replicas.follow(service.replicas, service.draining)

    def can_take(self, tried: Sequence[ReplicaState]) -> bool:
        """Return whether a request can go to a replica that was not tried, or wait for one."""
        return self.holds or self.replicas.least(0, tried) is not None


class Routes:
    """All services and callers, in the version that the server has sent last."""

    def __init__(self) -> None:
        self.version = 0
        self.on_change: Callable[[], None] = lambda: None
        self._by_id: dict[str, Route] = {}
        self.by_prefix: dict[bytes, Route] = {}
        """By the start of the paths of their requests."""
        self._by_model: dict[tuple[str, str], dict[str, Route]] = {}
        """By project and model: the services that serve it, by their ids."""
        self._tokens: dict[str, frozenset[str]] = {}
        self._callers: dict[bytes, frozenset[str] | None] = {}
        """By `Authorization` header, as it was found the last time."""

    def __iter__(self) -> Iterator[Route]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def replace(self, snapshot: Snapshot) -> None:
        """Replace everything. Services that are in both go on as they are."""
        gone = self._by_id.keys() - {service.id for service in snapshot.services}
        self._remove(gone)
        self._put(snapshot.services)
        self._tokens = {hash: frozenset(projects) for hash, projects in snapshot.tokens.items()}
        self._callers.clear()
        self.version = snapshot.version
        self.on_change()

    def change(self, changes: Changes) -> bool:
        """Follow a difference; return False, and change nothing, where it is one to another version."""
        if changes.since != self.version:
            return False
        self._remove(changes.removed)
        self._put(changes.services)
        for hash, projects in changes.tokens.items():
            if projects:
                self._tokens[hash] = frozenset(projects)
            else:
                self._tokens.pop(hash, None)
        if changes.tokens:
            self._callers.clear()
        self.version = changes.version
        self.on_change()
        return True

    def find(self, project: str, name: str) -> Route | None:
        """Return a service by its name."""
        return self.by_prefix.get(f"{SERVICES_PREFIX}{project}/{name}".encode())

    def of_project(self, project: str) -> list[Route]:
        """Return the services of a project, by name."""
        return sorted((one for one in self if one.service.project == project), key=lambda one: one.service.name)

    def of_model(self, project: str, name: str) -> list[Route]:
        """Return the services of a project that serve a model."""
        return list(self._by_model.get((project, name), {}).values())

    def projects_of(self, authorization: bytes) -> frozenset[str] | None:
        """Return the projects whose services a caller may use; None for a token that is not known."""
        try:
            return self._callers[authorization]
        except KeyError:
            found = self._projects_of(authorization)
            if len(self._callers) >= CALLERS_MAX:
                self._callers.clear()
            self._callers[authorization] = found
            return found

    def _projects_of(self, authorization: bytes) -> frozenset[str] | None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return self._tokens.get(sha256(token.strip()).hexdigest())

    def _remove(self, ids: Iterable[str]) -> None:
        for id in ids:
            route = self._by_id.pop(id, None)
            if route is not None:
                self._unlist(route)
                route.follow(replace(route.service, replicas=(), draining=(), waits_for="it has ended", starts=False))

    def _put(self, services: Iterable[Service]) -> None:
        for service in services:
            route = self._by_id.get(service.id)
            if route is None:
                route = self._by_id[service.id] = Route(service, Replicas())
            else:
                self._unlist(route)
                route.follow(service)
            self.by_prefix[route.prefix] = route
            if service.model is not None:
                self._by_model.setdefault((service.project, service.model.name), {})[service.id] = route

    def _unlist(self, route: Route) -> None:
        if self.by_prefix.get(route.prefix) is route:  # else it is that of a newer run with the same name
            del self.by_prefix[route.prefix]
        model = route.service.model
        if model is not None:
            key = (route.service.project, model.name)
            serving = self._by_model[key]
            del serving[route.service.id]
            if not serving:
                del self._by_model[key]


def may_use(projects: frozenset[str] | None, project: str) -> bool:
    """Return whether a caller with these projects may use the services of one."""
    return projects is not None and (project in projects or EVERY_PROJECT in projects)
