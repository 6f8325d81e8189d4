"""The way of a request of OpenAI's API: the services that serve its model, and those open to its caller."""

from collections.abc import Iterable, Sequence

from dstack.proxy.answers import Refusal
from dstack.proxy.models.openai import OF_TGI, Place, listed, listing
from dstack.proxy.routes import Route

_SHOWN_MAX = 20


def answer(place: Place, of_project: Iterable[Route], is_member: bool) -> bytes:
    """Return the list of models that a caller may use, or one of it. Raises `Refusal`."""
    routes = _open(of_project, is_member)
    models = [route.service.model for route in routes if route.service.model is not None]
    if place.model is None:
        return listing(place.project, models)
    named = [model for model in models if model.name == place.model]
    if not named:
        raise unknown(place, place.model, routes, is_member)
    return listed(place.project, named)


def candidates(place: Place, name: str, serving: Iterable[Route], is_member: bool) -> list[Route]:
    """Return the services that a caller may use for a model; empty if the model is missing. Raises `Refusal`.

    Args:
        serving: the services of the project with a model of this name.
        is_member: False for a caller that may use the services without `auth` only.
    """
    named = _open(serving, is_member)
    fitting = [route for route in named if passes_through(route) or place.endpoint in OF_TGI]
    if named and not fitting:
        message = f"The model {name} has no {place.endpoint}: its `format` is `tgi`"
        raise Refusal(404, "not_found", message, hint=f"It has {' and '.join(OF_TGI)}")
    return fitting


def passes_through(route: Route) -> bool:
    """Return whether the replicas of a service have OpenAI's API themselves."""
    model = route.service.model
    return model is not None and model.format == "openai"


def starting(name: str, routes: Sequence[Route]) -> Route:
    """Return a service whose replica a request waits for, as none has a ready one. Raises `Refusal`."""
    for route in routes:
        if route.holds:
            return route
    reasons = "; ".join(dict.fromkeys(route.service.waits_for for route in routes if route.service.waits_for))
    message = f"No replica of the model {name} is ready" + (f": {reasons}" if reasons else "")
    raise Refusal(503, "no_replica", message, retry_after_s=2)


def path_of(route: Route, place: Place) -> bytes:
    """Return the path, with the query, of a service that has OpenAI's API itself."""
    model = route.service.model
    assert model is not None
    return b"%b/%b%b" % (model.prefix.rstrip("/").encode(), place.endpoint.encode(), place.query)


def below(route: Route, path: bytes) -> bytes:
    """Return a path of a service as its replicas receive it."""
    return path if route.service.strip_prefix else route.prefix + path


def unknown(place: Place, name: str, of_project: Iterable[Route], is_member: bool) -> Refusal:
    """Return the refusal of a name. Without a token, one that is not open looks like one that does not exist."""
    if not is_member:
        return Refusal(
            401,
            "unauthorized",
            f"No model {name[:80]!r} of this project is open to all",
            hint="Send the header `Authorization: Bearer <token of a project member>`; clients call it the API key",
        )
    names = sorted({route.service.model.name for route in of_project if route.service.model is not None})
    there = ", ".join(names[:_SHOWN_MAX]) + (", …" if len(names) > _SHOWN_MAX else "")
    hint = f"Models of this project: {there}" if names else "No service of this project has a `model`"
    return Refusal(404, "model_not_found", f"The project {place.project} has no model {name[:80]!r}", hint=hint)


def _open(routes: Iterable[Route], is_member: bool) -> list[Route]:
    return [route for route in routes if route.service.model is not None and (is_member or not route.service.auth)]
