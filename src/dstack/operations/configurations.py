"""Read a configuration: its canonical form, or its mistakes."""

from collections.abc import Collection, Iterable

from dstack.errors import ConfigurationError, InvalidRequestError
from dstack.operations.context import Action, Context, authorize
from dstack.operations.wishes import beside_if_large, check_size
from dstack.protocol.requests import ReadConfiguration
from dstack.protocol.views import ConfigurationView, MistakeView
from dstack.spec import reading
from dstack.spec.mistakes import Mistake, Mistaken
from dstack.store import backends
from dstack.store.users import User


async def read(context: Context, user: User, request: ReadConfiguration) -> ConfigurationView:
    """Return the canonical form of a configuration, or its mistakes.

    Raises:
        ForbiddenError, ResourceNotExistsError: the user may not see the backends of the project that is named.
        InvalidRequestError: the configuration or a file of profiles is too large, or the profile is missing.
    """
    size = sum(map(check_size, (request.configuration, request.changes, *request.profiles)))
    project = request.project
    names = None
    if project is not None:
        names = await context.db.read(
            lambda tx: backends.names_usable_by(tx, authorize(tx, user, project, Action.READ).project.id)
        )
    return await beside_if_large(size, lambda: _read(request, names))


def _read(request: ReadConfiguration, backends: Collection[str] | None) -> ConfigurationView:
    try:
        found = reading.read(request.configuration, request.changes, request.profiles, request.profile, backends)
    except Mistaken as error:
        return ConfigurationView(configuration={}, mistakes=_shown(error.mistakes), document=error.document)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message, hint=error.hint) from error
    return ConfigurationView(configuration=found.configuration, ports=dict(found.ports), notes=_shown(found.notes))


def _shown(mistakes: Iterable[Mistake]) -> list[MistakeView]:
    return [MistakeView(path=list(one.path), text=one.text) for one in mistakes]
