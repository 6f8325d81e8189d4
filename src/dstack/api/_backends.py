"""Backends: the sources of machines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dstack.api._transport import Transport
    from dstack.protocol.backends import BackendCheckView, BackendRemovalView, BackendView


@dataclass(frozen=True, slots=True)
class Backend:
    """A source of machines of a project.

    Examples:
        >>> Backend("local", is_silent=False).name
        'local'
    """

    name: str
    """The backend's name: its type, unless it was given another one."""
    is_silent: bool
    """Whether the backend failed to answer the server's last question. A backend not asked yet is not silent."""
    type: str = ""
    """The value of a `BackendType`, such as `aws`."""
    project: str | None = None
    """The only project that may use it; None for all projects."""
    fault: str | None = None
    """The reason why the server cannot call it; None if it can."""
    is_removing: bool = False
    """Whether it is being removed: it sells nothing more, and goes once no machine can be left."""
    machines: int = 0
    """The number of its machines that may exist."""
    machine_titles: tuple[str, ...] = ()
    """A text about each of the first 100 of them. Empty if the caller may not delete the backend."""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Its configuration, with `***` for each credential. Empty if the caller may not change it."""


class BackendCollection:
    """The backends of one project. Admins of the server may manage those for all projects too, by `for_all`.

    Examples:
        >>> from dstack.api import Client
        >>> [backend.name for backend in Client.from_config().backends.list()]
        ['local']
    """

    def __init__(self, transport: "Transport", project: str) -> None:
        self._transport = transport
        self._project = project

    def list(self, for_all: bool = False) -> list[Backend]:
        """Return all backends that the project may use.

        Args:
            for_all: return the backends of all projects instead.

        Raises:
            ForbiddenError: `for_all`, and the caller is not an admin of the server.
            ServerUnreachableError: no server answers.

        Examples:
            >>> from dstack.api import Client
            >>> [(one.name, one.is_silent, one.fault) for one in Client.from_config().backends.list()]
            [('local', False, None)]
        """
        from dstack.protocol import routes
        from dstack.protocol.backends import BackendList

        if for_all:
            reply: BackendList = self._transport.call(routes.LIST_ALL_BACKENDS)
        else:
            reply = self._transport.call(routes.LIST_BACKENDS, project=self._project)
        return [_backend_of(one) for one in reply.backends]

    def add(self, config: Mapping[str, Any], name: str | None = None, for_all: bool = False) -> Backend:
        """Check a backend with its cloud, and add it; or change the one of that name, whose machines go on.

        Args:
            config: the configuration with its `type` and credentials, as in the server's `config.yml`.
            name: the backend's name; the `name` in `config`, or else its type, by default.
            for_all: add it for all projects instead of this one.

        Raises:
            BackendInvalidCredentialsError: the cloud does not accept the credentials.
            ConfigurationError: `config` is not a mapping.
            ForbiddenError: the caller is not an admin of the project; or, with `for_all`, of the server.
            InvalidRequestError: the configuration has mistakes, or this version has no driver for its type.
            ResourceExistsError: another backend that the project uses has the name.

        Examples:
            >>> from dstack.api import Client, InvalidRequestError
            >>> problem = ""
            >>> try:
            ...     Client.from_config().backends.add({"type": "cloud9"})
            ... except InvalidRequestError as error:
            ...     problem = error.message
            >>> problem.partition(";")[0]
            '`type`: there is no backend called `cloud9`'
        """
        from dstack.errors import ConfigurationError
        from dstack.kit.text import shown
        from dstack.protocol import routes
        from dstack.protocol.requests import PutBackend

        if not isinstance(config, Mapping):
            raise ConfigurationError(f"`config`: expected fields such as `type: aws`, found {shown(config)}")
        request = PutBackend(config={key: value for key, value in config.items() if key != "name"})
        called = name or config.get("name") or config.get("type") or "backend"
        if for_all:
            view: BackendView = self._transport.call(routes.PUT_BACKEND_FOR_ALL, request, backend=str(called))
        else:
            view = self._transport.call(routes.PUT_BACKEND, request, project=self._project, backend=str(called))
        return _backend_of(view)

    def check(self, name: str, for_all: bool = False) -> "BackendCheckView":
        """Ask a backend now whether it can be used as configured.

        Args:
            name: the backend's name.
            for_all: the backend is one for all projects, and the caller an admin of the server.

        Returns:
            the `error` and the wrong `field`, which are None for a usable backend. `calls` has the number of calls
            of each kind, of those that failed, and their durations.

        Raises:
            ForbiddenError: the caller is not an admin of the project; or, with `for_all`, of the server.
            ResourceNotExistsError: there is no such backend.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().backends.check("local").error is None
            True
        """
        from dstack.protocol import routes

        view: BackendCheckView
        if for_all:
            view = self._transport.call(routes.CHECK_BACKEND_FOR_ALL, backend=name)
        else:
            view = self._transport.call(routes.CHECK_BACKEND, project=self._project, backend=name)
        return view

    def delete(
        self, name: str, drain: bool = False, for_all: bool = False, force: bool = False
    ) -> "BackendRemovalView":
        """Delete a backend: at once if no machine can be left there, or else as soon as that is certain.

        Args:
            name: the backend's name.
            drain: delete it though it has machines. They take no more jobs, and end once their jobs have ended.
            for_all: the backend is one for all projects, and the caller an admin of the server.
            force: delete it now, since its cloud never answers again. Its machines are given up: they may exist, and
                cost money. Without machines, it is deleted as usual.

        Returns:
            whether it is `removed` already, the `machines` that end first, and those that were `given_up`.

        Raises:
            ForbiddenError: the caller is not an admin of the project; or, with `for_all`, of the server.
            InvalidRequestError: it has machines, which the message lists, and neither `drain` nor `force` is set. Or
                `force` is set, and jobs run there whose machines answer.
            ResourceNotExistsError: there is no such backend.

        Examples:
            >>> from dstack.api import Client, InvalidRequestError
            >>> problem = ""
            >>> try:
            ...     Client.from_config().backends.delete("local")
            ... except InvalidRequestError as error:
            ...     problem = error.message
            >>> problem
            "The backend `local` is there by the server's settings"
        """
        from dstack.protocol import routes

        query = {"drain": "true"} if drain else {}
        query |= {"force": "true"} if force else {}
        view: BackendRemovalView
        if for_all:
            view = self._transport.call(routes.DELETE_BACKEND_FOR_ALL, query=query, backend=name)
        else:
            view = self._transport.call(routes.DELETE_BACKEND, query=query, project=self._project, backend=name)
        return view


def _backend_of(view: "BackendView") -> Backend:
    return Backend(
        view.name,
        is_silent=view.silent,
        type=view.type,
        project=view.project,
        fault=view.fault,
        is_removing=view.removing,
        machines=view.machines,
        machine_titles=tuple(view.machine_titles),
        config=view.config,
    )
