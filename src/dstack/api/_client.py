"""The client of one project of one server. Each part is imported at its first use."""

import os
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dstack.api._accounts import MemberCollection, TokenCollection, UserCollection
    from dstack.api._backends import BackendCollection
    from dstack.api._events import EventCollection
    from dstack.api._repo_collection import RepoCollection
    from dstack.api._runs import RunCollection
    from dstack.api._secrets import SecretCollection
    from dstack.api._servers import Server
    from dstack.api._transport import Transport
    from dstack.protocol.accounts import ProjectList, ProjectView
    from dstack.protocol.backends import AuditView
    from dstack.protocol.views import InstanceList, InstanceView


class Client:
    """A client of a dstack server, for one project.

    Programs make one with `Client.from_config`.

    Args:
        server: the object that finds the server's URL and token.
        project: the project's name.
        ssh_identity_file: an ed25519 private key for tunnels; by default the client's own key.

    Examples:
        >>> from dstack.api import Client
        >>> client = Client.from_config(project_name="main", server_url="http://127.0.0.1:3000", user_token="secret")
        >>> client.project
        'main'
    """

    def __init__(self, server: "Server", project: str, ssh_identity_file: str | os.PathLike[str] | None = None) -> None:
        self.project = project
        self._server = server
        self._ssh_identity_file = ssh_identity_file

    @staticmethod
    def from_config(
        project_name: str | None = None,
        server_url: str | None = None,
        user_token: str | None = None,
        ssh_identity_file: str | os.PathLike[str] | None = None,
    ) -> "Client":
        """Return a client configured by arguments, environment variables or `~/.dstack/config.yml`, in that order.

        Sends no request. Without any configuration, the client uses this user's embedded server.
        The embedded server starts by itself at the first request.

        Args:
            project_name: the project; required with `server_url` and `user_token`. Variable: `DSTACK_PROJECT`.
            server_url: the server's URL, such as `http://127.0.0.1:3000`. Variable: `DSTACK_SERVER_URL`.
            user_token: the user's token. Variable: `DSTACK_TOKEN`.
            ssh_identity_file: an ed25519 private key for tunnels; by default the client's own key.

        Raises:
            ConfigurationError: a setting is missing, malformed or unknown.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().project
            'main'
        """
        from dstack.api import _places
        from dstack.api._config import find_target
        from dstack.api._embedded import EmbeddedServer
        from dstack.api._servers import FixedServer

        target = find_target(project_name, server_url, user_token)
        server = FixedServer(target.address) if target.address else EmbeddedServer(_places.server_folder())
        return Client(server, target.project, ssh_identity_file)

    @cached_property
    def runs(self) -> "RunCollection":
        """The runs of the project."""
        from dstack.api._context import Context
        from dstack.api._runs import RunCollection

        context = Context(self._transport, self.project, self.events, self.repos, self._ssh_identity_file)
        return RunCollection(context)

    @cached_property
    def repos(self) -> "RepoCollection":
        """The repos of the project."""
        from dstack.api._repo_collection import RepoCollection

        return RepoCollection(self._transport, self.project)

    @cached_property
    def backends(self) -> "BackendCollection":
        """The backends of the project."""
        from dstack.api._backends import BackendCollection

        return BackendCollection(self._transport, self.project)

    @cached_property
    def secrets(self) -> "SecretCollection":
        """The secrets of the project."""
        from dstack.api._secrets import SecretCollection

        return SecretCollection(self._transport, self.project)

    @cached_property
    def members(self) -> "MemberCollection":
        """The members of the project."""
        from dstack.api._accounts import MemberCollection

        return MemberCollection(self._transport, self.project)

    @cached_property
    def users(self) -> "UserCollection":
        """The users of the server."""
        from dstack.api._accounts import UserCollection

        return UserCollection(self._transport)

    @cached_property
    def tokens(self) -> "TokenCollection":
        """The tokens of the caller, and for admins of the server those of every user."""
        from dstack.api._accounts import TokenCollection

        return TokenCollection(self._transport)

    @cached_property
    def events(self) -> "EventCollection":
        """The events of the project."""
        from dstack.api._events import EventCollection

        return EventCollection(self._transport, self.project)

    def audit(self) -> "AuditView":
        """Ask every backend for its machines and compare them with the server's records.

        Takes as long as the slowest backend, at most half a minute.

        Returns:
            `machines`: each machine with its owner; `silent`: the backends that did not answer.

        Raises:
            ForbiddenError: the user is not an admin of the server.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().audit().silent
            []
        """
        from dstack.protocol import routes

        found: AuditView = self._transport.call(routes.AUDIT)
        return found

    def projects(self) -> "list[ProjectView]":
        """Return the projects that the user may use on this server, with the user's role in each.

        Examples:
            >>> from dstack.api import Client
            >>> [project.name for project in Client.from_config().projects()]
            ['main']
        """
        from dstack.protocol import routes

        found: ProjectList = self._transport.call(routes.LIST_PROJECTS)
        return found.projects

    def create_project(self, name: str) -> "ProjectView":
        """Create a project on the server. The caller becomes its admin.

        Args:
            name: 1 to 60 lower-case letters, digits, `.`, `_` and `-`.

        Raises:
            InvalidRequestError: the name is malformed.
            ResourceExistsError: there is a project of that name.

        Examples:
            >>> from dstack.api import Client
            >>> client = Client.from_config()
            >>> client.create_project("vision").role
            'admin'
            >>> client.delete_project("vision")
        """
        from dstack.protocol import routes
        from dstack.protocol.requests import CreateProject

        view: ProjectView = self._transport.call(routes.CREATE_PROJECT, CreateProject(name=name))
        return view

    def delete_project(self, name: str) -> None:
        """Delete a project of the server with its runs, logs, secrets and members.

        Args:
            name: the project's name.

        Raises:
            ForbiddenError: the caller is not an admin of the project.
            InvalidRequestError: a run of the project has not finished.
            ResourceNotExistsError: there is no such project.

        Examples:
            >>> from dstack.api import Client
            >>> client = Client.from_config()
            >>> project = client.create_project("speech")
            >>> client.delete_project("speech")
        """
        from dstack.protocol import routes

        self._transport.call(routes.DELETE_PROJECT, project=name)

    def instances(self) -> "list[InstanceView]":
        """Return the instances that the project uses or may use.

        Examples:
            >>> from dstack.api import Client
            >>> all(instance.backend == "local" for instance in Client.from_config().instances())
            True
        """
        from dstack.protocol import routes

        found: InstanceList = self._transport.call(routes.LIST_INSTANCES, project=self.project)
        return found.instances

    def when_away(self, tell: "Callable[[str], None]") -> None:
        """Set the function that reports that an upload or a submit waits for an unreachable server.

        Args:
            tell: called with one line of text at each try, from any thread.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().when_away(print)
        """
        self._transport.when_away = tell

    def close(self) -> None:
        """Close the client's connections. Iterators over logs or events end, also in other threads.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().close()
        """
        self._transport.close()

    @cached_property
    def _transport(self) -> "Transport":
        from dstack.api._transport import Transport

        return Transport(self._server)
