"""Backends: the sources of machines."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack.api._transport import Transport


@dataclass(frozen=True, slots=True)
class Backend:
    """A source of machines of a project.

    Examples:
        >>> Backend("local", is_silent=False).name
        'local'
    """

    name: str
    """The backend's name, such as `aws`: the value of a `BackendType`."""
    is_silent: bool
    """Whether the backend failed to answer the server's last question. A backend not asked yet is not silent."""


class BackendCollection:
    """The backends of one project.

    Examples:
        >>> from dstack.api import Client
        >>> [backend.name for backend in Client.from_config().backends.list()]
        ['local']
    """

    def __init__(self, transport: "Transport", project: str) -> None:
        self._transport = transport
        self._project = project

    def list(self) -> list[Backend]:
        """Return all backends of the project.

        Raises:
            ServerUnreachableError: no server answers.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().backends.list()
            [Backend(name='local', is_silent=False)]
        """
        from dstack.protocol import routes
        from dstack.protocol.views import BackendList

        reply: BackendList = self._transport.call(routes.LIST_BACKENDS, project=self._project)
        return [Backend(one.name, is_silent=one.silent) for one in reply.backends]
