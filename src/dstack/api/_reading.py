"""Read a configuration: by the server if it runs, since Pydantic takes longer to load here than a request takes."""

import math
from typing import TYPE_CHECKING

from dstack.errors import InvalidRequestError
from dstack.protocol import routes
from dstack.spec.mistakes import MISPRINT, Mistake, Mistaken
from dstack.spec.reading import Reading, read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dstack.api import Client
    from dstack.protocol.requests import ReadConfiguration
    from dstack.protocol.views import ConfigurationView, MistakeView

NUMBER_BITS_MAX = 63
"""The size of a whole number that every reader of JSON knows."""


def read_by(client: "Client", request: "ReadConfiguration") -> Reading:
    """Return the canonical form of a configuration.

    A running server reads it. Without one, this process reads it, since a mistake should start no server. It also
    reads values that JSON lacks, and a configuration that the server refuses, as an older server refuses all.

    Raises:
        Mistaken: the configuration or a file of profiles has mistakes.
        ConfigurationError: the profile is missing.
        ServerUnreachableError: the server does not answer.
    """
    transport = client._transport
    parts = (request.configuration, request.changes, request.profiles)
    if transport.has_server() and all(map(_is_json, parts)):
        try:
            return _reading_of(transport.call(routes.READ_CONFIGURATION, request))
        except InvalidRequestError:
            pass
    return read(request.configuration, request.changes, request.profiles, request.profile)


def _reading_of(view: "ConfigurationView") -> Reading:
    if view.mistakes:
        raise Mistaken(_mistakes(view.mistakes), view.document)
    return Reading(view.configuration, view.ports, _mistakes(view.notes))


def _mistakes(views: "Iterable[MistakeView]") -> list[Mistake]:
    return [Mistake(tuple(one.path), one.text) for one in views]


def _is_json(data: object) -> bool:
    """Whether JSON can hold plain data from YAML, which also has infinities and numbers of any length."""
    todo = [data]
    while todo:
        match todo.pop():
            case str() as text if MISPRINT.search(text):
                return False
            case float() as number if not math.isfinite(number):
                return False
            case int() as number if number.bit_length() > NUMBER_BITS_MAX:
                return False
            case dict() as mapping:
                todo += [*mapping, *mapping.values()]
            case list() as entries:
                todo += entries
    return True
