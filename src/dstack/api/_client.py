"""The client: one project of one server. What it is made of is imported when it is first used."""

import os
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dstack.api._backends import BackendCollection
    from dstack.api._events import EventCollection
    from dstack.api._repo_collection import RepoCollection
    from dstack.api._runs import RunCollection
    from dstack.api._secrets import SecretCollection
    from dstack.api._servers import Server
    from dstack.api._transport import Transport
    from dstack.protocol.views import AuditView, InstanceList, InstanceView, ProjectList, ProjectView


class Client:
    """Speaks to a dstack server for one project.

    Args:
        server: where the server is; programs use `from_config` instead.
        project: the project's name.
        ssh_identity_file: an ed25519 private key for tunnels; the client's own without it.

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
        """The client that arguments, environment and `~/.dstack/config.yml` name, without asking any server.

        Where nothing is configured it uses this user's embedded server, which starts by itself at the first request.

        Args:
            project_name: the project; needed where `server_url` and `user_token` are given.
            server_url: such as `http://127.0.0.1:3000`.
            user_token: the user's token.
            ssh_identity_file: an ed25519 private key for tunnels; the client's own without it.

        Raises:
            ConfigurationError: something is missing, damaged or unknown.

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
        """Operations with runs."""
        from dstack.api._context import Context
        from dstack.api._runs import RunCollection

        context = Context(self._transport, self.project, self.events, self.repos, self._ssh_identity_file)
        return RunCollection(context)

    @cached_property
    def repos(self) -> "RepoCollection":
        """Operations with repos."""
        from dstack.api._repo_collection import RepoCollection

        return RepoCollection(self._transport, self.project)

    @cached_property
    def backends(self) -> "BackendCollection":
        """Operations with backends."""
        from dstack.api._backends import BackendCollection

        return BackendCollection(self._transport, self.project)

    @cached_property
    def secrets(self) -> "SecretCollection":
        """Operations with secrets."""
        from dstack.api._secrets import SecretCollection

        return SecretCollection(self._transport, self.project)

    @cached_property
    def events(self) -> "EventCollection":
        """What has happened, and what happens."""
        from dstack.api._events import EventCollection

        return EventCollection(self._transport, self.project)

    def audit(self) -> "AuditView":
        """What every backend has, and who claims it. Takes as long as the slowest backend, half a minute at most.

        Raises:
            ForbiddenError: the user is no admin of the server.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().audit().silent
            []
        """
        from dstack.protocol import routes

        found: AuditView = self._transport.call(routes.AUDIT)
        return found

    def projects(self) -> "list[ProjectView]":
        """The projects that the user may use on this server, and what the user is in each.

        Examples:
            >>> from dstack.api import Client
            >>> [project.name for project in Client.from_config().projects()]
            ['main']
        """
        from dstack.protocol import routes

        found: ProjectList = self._transport.call(routes.LIST_PROJECTS)
        return found.projects

    def instances(self) -> "list[InstanceView]":
        """The machines that the project uses, or may use.

        Examples:
            >>> from dstack.api import Client
            >>> all(instance.backend == "local" for instance in Client.from_config().instances())
            True
        """
        from dstack.protocol import routes

        found: InstanceList = self._transport.call(routes.LIST_INSTANCES, project=self.project)
        return found.instances

    def when_away(self, tell: "Callable[[str], None]") -> None:
        """Have `tell` called with one line while an upload or a submit waits for a server that is away.

        Args:
            tell: called from any thread, again at each try.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().when_away(print)
        """
        self._transport.when_away = tell

    def close(self) -> None:
        """Close its connections; what follows logs or events in other threads ends.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().close()
        """
        self._transport.close()

    @cached_property
    def _transport(self) -> "Transport":
        from dstack.api._transport import Transport

        return Transport(self._server)
