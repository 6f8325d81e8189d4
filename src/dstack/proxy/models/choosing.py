"""Models: the replica for each request, and its form there."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from dstack.kit.clock import Clock
from dstack.proxy.admission import check_limits
from dstack.proxy.answers import Reply
from dstack.proxy.choices import Choice
from dstack.proxy.models.affinity import Affinity, chain_of
from dstack.proxy.models.converting import Conversion
from dstack.proxy.models.openai import LISTING, place_of, read
from dstack.proxy.models.routing import answer, below, candidates, passes_through, path_of, starting, unknown

if TYPE_CHECKING:
    from dstack.proxy.collecting import ModelExchange
    from dstack.proxy.plane import DataPlane


class Models:
    """Chooses for a data plane where requests to models go."""

    def __init__(self, plane: "DataPlane", clock: Clock) -> None:
        """Args: `clock`: the time that answers have."""
        self._plane = plane
        self._affinity = Affinity()
        self._conversion = Conversion(plane, clock)

    def choose(self, exchange: "ModelExchange") -> Choice | Reply | Awaitable[Choice]:
        """Return where a request goes, once its body is there. Raises `Refusal`."""
        place = place_of(exchange.method, exchange.rest)
        routes, is_member = self._plane.routes, exchange.is_member
        if place.endpoint == LISTING:
            return Reply(answer(place, routes.of_project(place.project), is_member))
        body = exchange.collected
        asked = read(body)
        serving = candidates(place, asked.model, routes.of_model(place.project, asked.model), is_member)
        if not serving:
            raise unknown(place, asked.model, routes.of_project(place.project), is_member)
        now_s = self._plane.now_s()
        chosen = self._affinity.choose(serving, chain_of(f"{place.project}/{asked.model}", asked.text), now_s)
        route, replica = chosen or (starting(asked.model, serving), None)
        path = path_of(route, place) if passes_through(route) else b"/generate"
        if route.buckets and route is not exchange.route:  # else it was counted before it waited
            check_limits(route, path, exchange.client.address, exchange.fields, now_s)
        if replica is None:  # it waits, and is chosen for again
            return Choice(route, below(route, path))
        if not passes_through(route):
            return self._conversion.choice(place, route, replica, body)
        others = (one for one in serving if one is not route and passes_through(one))
        return Choice(
            route,
            below(route, path),
            replica=replica,
            others=tuple(Choice(one, below(one, path_of(one, place))) for one in others),
        )

    async def close(self) -> None:
        """End the processes that render chat templates."""
        await self._conversion.close()
