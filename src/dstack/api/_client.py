"""The client: one project of one server."""

import os

from dstack.api import _places
from dstack.api._config import find_target
from dstack.api._context import Context
from dstack.api._embedded import EmbeddedServer
from dstack.api._events import EventCollection
from dstack.api._repos import RepoCollection
from dstack.api._runs import RunCollection
from dstack.api._servers import FixedServer, Server
from dstack.api._transport import Transport


class Client:
    """Speaks to a dstack server for one project.

    Attributes:
        runs: operations with runs.
        repos: operations with repos.
        events: what has happened, and what happens.
        project: the project's name.

    Example:
        >>> from dstack.api import Client
        >>> client = Client.from_config(project_name="main", server_url="http://127.0.0.1:3000", user_token="secret")
        >>> client.project
        'main'
    """

    def __init__(self, server: Server, project: str, ssh_identity_file: str | os.PathLike[str] | None = None) -> None:
        self._transport = Transport(server)
        self.project = project
        self.events = EventCollection(self._transport, project)
        self.repos = RepoCollection(self._transport, project)
        self.runs = RunCollection(Context(self._transport, project, self.events, self.repos, ssh_identity_file))

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
        """
        target = find_target(project_name, server_url, user_token)
        server = FixedServer(target.address) if target.address else EmbeddedServer(_places.server_folder())
        return Client(server, target.project, ssh_identity_file)

    def close(self) -> None:
        """Close its connections; what follows logs or events in other threads ends."""
        self._transport.close()
