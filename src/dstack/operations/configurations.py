"""Read a configuration: its canonical form, or its mistakes."""

from collections.abc import Iterable

from dstack.errors import ConfigurationError, InvalidRequestError
from dstack.operations.wishes import beside_if_large, check_size
from dstack.protocol.requests import ReadConfiguration
from dstack.protocol.views import ConfigurationView, MistakeView
from dstack.spec import reading
from dstack.spec.mistakes import Mistake, Mistaken


async def read(request: ReadConfiguration) -> ConfigurationView:
    """Return the canonical form of a configuration, or its mistakes.

    Raises:
        InvalidRequestError: the configuration or a file of profiles is too large, or the profile is missing.
    """
    size = sum(map(check_size, (request.configuration, request.changes, *request.profiles)))
    return await beside_if_large(size, lambda: _read(request))


def _read(request: ReadConfiguration) -> ConfigurationView:
    try:
        found = reading.read(request.configuration, request.changes, request.profiles, request.profile)
    except Mistaken as error:
        return ConfigurationView(configuration={}, mistakes=_shown(error.mistakes), document=error.document)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message, hint=error.hint) from error
    return ConfigurationView(configuration=found.configuration, ports=dict(found.ports), notes=_shown(found.notes))


def _shown(mistakes: Iterable[Mistake]) -> list[MistakeView]:
    return [MistakeView(path=list(one.path), text=one.text) for one in mistakes]
