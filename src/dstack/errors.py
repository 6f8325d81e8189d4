"""Every error dstack raises on purpose, and how they relate.

* DstackError
  x ConfigurationError               what the user wrote or set up cannot work; never retried
  x ClientError                      the client could not do its part
    + ServerUnreachableError         nobody answers at the server's URL
    + PortUsedError                  a local port is taken, or may not be used
    + SSHError                       the tunnel to the job failed
  x ServerError                      the server could not do its part
    + ServerClientError              the server refused the request
      - InvalidRequestError
      - ResourceExistsError
      - ResourceNotExistsError
      - ForbiddenError
      - UnauthorizedError
      - BackendInvalidCredentialsError
      - NoCapacityError
      - GatewayError
      - RepoDoesNotExistError
  x BackendError                     a cloud or a host could not do its part (server side)
    + BackendUnavailable             transient; retried with backoff
    + HostUnreachable                transient; the link to the host is down
    + AgentRefused                   the agent on the host said no; never retried
      - HostTrouble                  for reasons of the host's own: another host may do it, or this one later
  x Conflict                         someone else changed the object first; looked at again
  x IllegalMove                      a bug in dstack, never the user's fault

`code` is the wire name: it is part of the API and never changes.
"""

from typing import ClassVar


class DstackError(Exception):
    """Base of all.

    Args:
        message: what happened and to what; one sentence without a full stop.
        hint: what to do next, or None where nothing can be done.

    Examples:
        >>> error = DstackError("It did not work", hint="Try again")
        >>> error.message, error.hint, error.code
        ('It did not work', 'Try again', 'error')
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class ConfigurationError(DstackError):
    """What the user wrote or set up cannot work.

    Examples:
        >>> from dstack.api import Client
        >>> try:
        ...     Client.from_config(server_url="http://127.0.0.1:3000", user_token="secret")
        ... except ConfigurationError as error:
        ...     print(error.message)
        `project_name` must be given too
    """

    code = "configuration_error"


class ClientError(DstackError):
    """The client could not do its part.

    Examples:
        >>> issubclass(PortUsedError, ClientError)
        True
    """

    code = "client_error"


class ServerUnreachableError(ClientError):
    """Nobody answers at the server's URL.

    Examples:
        >>> from dstack.api import Client
        >>> client = Client.from_config("main", "http://127.0.0.1:1", "secret")
        >>> try:
        ...     client.projects()
        ... except ServerUnreachableError as error:
        ...     print(error.message.partition(" (")[0])
        No server answers at `http://127.0.0.1:1`
    """

    code = "server_unreachable"


class PortUsedError(ClientError):
    """A local port is taken, or this user may not use it.

    Examples:
        >>> import socket
        >>> from dstack.api import Client, Task
        >>> with socket.create_server(("127.0.0.1", 0)) as taken:
        ...     port = taken.getsockname()[1]
        ...     try:
        ...         Client.from_config().runs.submit(Task(commands=["true"], ports=[f"{port}:80"]))
        ...     except PortUsedError as error:
        ...         print(error.message == f"The local port {port} is in use on `127.0.0.1`")
        True
    """

    code = "port_used"


class SSHError(ClientError):
    """The tunnel to the job could not be opened, or broke.

    Examples:
        >>> SSHError("The SSH tunnel could not be opened").code
        'ssh_error'
    """

    code = "ssh_error"


class ServerError(DstackError):
    """The server could not do its part.

    Examples:
        >>> issubclass(NoCapacityError, ServerError)
        True
    """

    code = "server_error"


class DatabaseUnavailable(ServerError):
    """The server's database does not answer, or takes no writes just now."""

    code = "database_unavailable"
    retryable = True


class StorageUnavailable(ServerError):
    """Where logs and uploads are kept does not answer, or takes nothing just now."""

    code = "storage_unavailable"
    retryable = True


class ServerClientError(ServerError):
    """The server refused the request.

    Examples:
        >>> issubclass(ResourceExistsError, ServerClientError)
        True
    """

    code = "refused"


class InvalidRequestError(ServerClientError):
    """The request cannot work as it stands.

    Examples:
        >>> from dstack.api import Client
        >>> try:
        ...     Client.from_config().secrets.set("no name", "123")
        ... except InvalidRequestError as error:
        ...     print(error.message)
        `no name` cannot be a secret's name
    """

    code = "invalid_request"


class ResourceExistsError(ServerClientError):
    """The name is taken by something active.

    Examples:
        >>> from dstack.api import Client, Task
        >>> runs = Client.from_config().runs
        >>> run = runs.submit(Task(commands=["sleep 60"]), run_name="busy")
        >>> try:
        ...     runs.submit(Task(commands=["sleep 60"]), run_name="busy")
        ... except ResourceExistsError as error:
        ...     print(error.hint)
        Stop it with `dstack stop busy`, or use another name
        >>> run.stop(abort=True)
    """

    code = "resource_exists"


class ResourceNotExistsError(ServerClientError):
    """There is nothing of that name.

    Examples:
        >>> from dstack.api import Client
        >>> try:
        ...     Client.from_config().secrets.get("NO_SUCH")
        ... except ResourceNotExistsError as error:
        ...     print(error.message)
        There is no secret `NO_SUCH` in the project `main`
    """

    code = "resource_not_exists"


class ForbiddenError(ServerClientError):
    """The user may not do this.

    Examples:
        >>> ForbiddenError("Only admins may do this").code
        'forbidden'
    """

    code = "forbidden"


class UnauthorizedError(ServerClientError):
    """The token is missing or unknown.

    Examples:
        >>> UnauthorizedError("The server does not know this token").code
        'unauthorized'
    """

    code = "unauthorized"


class BackendInvalidCredentialsError(ServerClientError):
    """A cloud does not accept the credentials of its backend.

    Examples:
        >>> BackendInvalidCredentialsError("The cloud does not accept the key").code
        'backend_invalid_credentials'
    """

    code = "backend_invalid_credentials"


class NoCapacityError(ServerClientError):
    """No machine that is to be had fits the requirements.

    Examples:
        >>> from dstack.api import Client, Resources, Task
        >>> try:
        ...     Client.from_config().runs.submit(Task(commands=["true"], resources=Resources(gpu="H100:8")))
        ... except NoCapacityError as error:
        ...     print("gpu: asked 8 H100" in error.message)
        True
    """

    code = "no_capacity"


class GatewayError(ServerClientError):
    """The gateway could not do its part.

    Examples:
        >>> GatewayError("The gateway does not answer").code
        'gateway_error'
    """

    code = "gateway_error"


class RepoDoesNotExistError(ServerClientError):
    """The repo was not initialized in this project.

    Examples:
        >>> from dstack.api import Client, RemoteRepo, Task
        >>> repo = RemoteRepo.from_url("https://example.com/team/project", repo_branch="main")
        >>> try:
        ...     Client.from_config().runs.submit(Task(commands=["true"]), repo=repo)
        ... except RepoDoesNotExistError as error:
        ...     print(error.hint)
        `client.repos.init(repo)` or `dstack init` first
    """

    code = "repo_does_not_exist"


class BackendError(DstackError):
    """A cloud or a host could not do its part."""

    code = "backend_error"


class BackendUnavailable(BackendError):
    """The cloud does not answer just now."""

    code = "backend_unavailable"
    retryable = True


class HostUnreachable(BackendError):
    """The link to the host's agent is down just now."""

    code = "host_unreachable"
    retryable = True


class AgentRefused(BackendError):
    """The agent on the host said no."""

    code = "agent_refused"


class HostTrouble(AgentRefused):
    """The host itself keeps its agent from doing it: another host may do it, or this one later."""

    code = "host_trouble"


class LeaseLost(BackendError):
    """Another server sees to this by now."""

    code = "lease_lost"


class Conflict(DstackError):
    """Someone else changed the object first."""

    code = "conflict"
    retryable = True


class IllegalMove(DstackError):
    """A status would have moved where the table does not let it."""

    code = "illegal_move"


def client_closed() -> ServerUnreachableError:
    """What every call says once the client is closed."""
    return ServerUnreachableError("The client is closed", hint="Make a new one")


def error_of_code(code: str, message: str, hint: str | None) -> DstackError:
    """The error that a `code` from the wire stands for; `ServerError` where the code is unknown here."""
    todo: list[type[DstackError]] = [DstackError]
    while todo:
        kind = todo.pop()
        if kind.code == code:
            return kind(message, hint=hint)
        todo.extend(kind.__subclasses__())
    return ServerError(message, hint=hint)
