"""OpenAI's API as far as routing needs it: its paths, the model that a request names, the list of models.

A request's body goes on as it came, byte for byte. Only the fields of `Asked` are read.
"""

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from msgspec import DecodeError, Raw, Struct, ValidationError, json

from dstack.protocol.proxy import MODELS_PREFIX, Model
from dstack.proxy.answers import Refusal

ENDPOINTS = ("chat/completions", "completions", "embeddings", "responses")
"""The endpoints whose requests name a model."""
LISTING = "models"
OF_TGI = ("chat/completions", "completions")
"""The endpoints of models that have the API of Text Generation Inference."""
BODY_BYTES_MAX = 32 << 20
_ALL = ", ".join((LISTING, *ENDPOINTS))


class Place(NamedTuple):
    """The place that a request asks for."""

    project: str
    endpoint: str
    """One of `ENDPOINTS`, or `LISTING`."""
    query: bytes
    """With its question mark; empty without one."""
    model: str | None = None
    """The model that a path below `LISTING` names."""


class Asked(Struct):
    """The fields of a request that decide where it goes."""

    model: str
    messages: Raw = Raw()
    prompt: Raw = Raw()
    input: Raw = Raw()

    @property
    def text(self) -> memoryview:
        """Return the conversation or the prompt, as it came: a following turn begins with the same bytes."""
        return memoryview(self.messages or self.prompt or self.input)


_asked = json.Decoder(Asked)


class _Listed(Struct):
    id: str
    created: int
    owned_by: str
    object: str = "model"


class _Listing(Struct):
    data: list[_Listed]
    object: str = "list"


def place_of(method: bytes, rest: bytes) -> Place:
    """Return what a request asks for.

    Args:
        rest: the target behind `/proxy/models`.

    Raises:
        Refusal: there is no such endpoint, or it has other methods.
    """
    path, mark, query = rest[1:].partition(b"?")
    project, _, below = path.partition(b"/")
    endpoint = below.decode("latin-1")
    if not project or not endpoint:
        raise Refusal(404, "not_found", f"Expected {MODELS_PREFIX}<project>/<endpoint>", hint=f"Endpoints: {_ALL}")
    listing, slash, name = endpoint.partition("/")
    model: str | None = None
    if listing == LISTING and slash:
        endpoint, model = LISTING, unquote_to_bytes(name).decode("utf-8", "replace")
    if endpoint != LISTING and endpoint not in ENDPOINTS:
        raise Refusal(404, "not_found", f"There is no endpoint {endpoint[:80]!r}", hint=f"Endpoints: {_ALL}")
    expected = ("GET", "HEAD") if endpoint == LISTING else ("POST",)
    found = method.decode("latin-1")
    if found not in expected:
        raise Refusal(405, "method_not_allowed", f"Expected {expected[0]} for {endpoint}, found {found[:20]}")
    return Place(project.decode("latin-1"), endpoint, mark + query, model)


def read(body: bytes | bytearray) -> Asked:
    """Return what a request names. Raises `Refusal`."""
    try:
        asked = _asked.decode(body)
    except ValidationError as error:
        message = str(error)
        if "`model`" in message or "$.model" in message:
            raise Refusal(
                400, "invalid_request", f"Expected `model` to be the name of a model as text: {message}"
            ) from None
        raise Refusal(400, "invalid_request", f"The request is not understood: {message}") from None
    except RecursionError:
        raise Refusal(400, "invalid_request", "The JSON of the request is nested too deeply") from None
    except (DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "invalid_request", f"The body of the request is not JSON: {error}") from None
    if not asked.model:
        raise Refusal(400, "invalid_request", "Expected `model` to be the name of a model, found an empty text")
    return asked


def listing(project: str, models: Iterable[Model]) -> bytes:
    """Return the answer to `GET models`: each name once, with the time of the first service that declared it."""
    created: dict[str, int] = {}
    for model in models:
        created[model.name] = min(model.created_at, created.get(model.name, model.created_at))
    return json.encode(_Listing([_Listed(name, created[name], project) for name in sorted(created)]))


def listed(project: str, models: Iterable[Model]) -> bytes:
    """Return the answer to `GET models/<name>`."""
    found = list(models)
    return json.encode(_Listed(found[0].name, min(model.created_at for model in found), project))
