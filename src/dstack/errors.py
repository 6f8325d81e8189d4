"""The tree of errors that dstack raises on purpose.

* DstackError
  x ConfigurationError               a configuration or setting cannot work; never retried
  x ClientError                      the client failed
    + ServerUnreachableError         no server answers at the URL
    + PortUsedError                  a local port is in use, or not permitted
    + SSHError                       the tunnel to the job failed
  x ServerError                      the server failed
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
  x BackendError                     a cloud or a host failed (server side)
    + BackendUnavailable             transient; retried with backoff
    + Unanswered                     no try succeeded within the bound of an intent; its result is unknown
    + HostUnreachable                transient; the link to the host is down
    + AgentRefused                   the agent on the host refused; never retried
      - HostTrouble                  the host is the cause: another host may succeed, or this one later
  x Conflict                         another writer changed the object first; retried
  x IllegalMove                      a bug in dstack, never the user's fault

`code` is the wire name: it is part of the API and never changes.
"""

from collections.abc import Sequence
from typing import ClassVar


class DstackError(Exception):
    """The base of all errors.

    Args:
        message: the failure and its object; one sentence without a full stop.
        hint: the next step for the user, or None.

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
    """A configuration or setting that cannot work.

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
    """A failure of the client.

    Examples:
        >>> issubclass(PortUsedError, ClientError)
        True
    """

    code = "client_error"


class ServerUnreachableError(ClientError):
    """No server answers at the URL.

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
    """A local port is in use, or the user may not use it.

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
    """A failure of the server.

    Examples:
        >>> issubclass(NoCapacityError, ServerError)
        True
    """

    code = "server_error"


class DatabaseUnavailable(ServerError):
    """The server's database does not answer, or does not accept writes now."""

    code = "database_unavailable"
    retryable = True


class StorageUnavailable(ServerError):
    """The storage of logs and uploads does not answer, or does not accept data now."""

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

    def __init__(
        self, message: str, *, hint: str | None = None, mistakes: Sequence[tuple[tuple[str | int, ...], str]] = ()
    ) -> None:
        """Args: `mistakes`: the mistakes in the data of the request, each with its path and its message."""
        super().__init__(message, hint=hint)
        self.mistakes = mistakes


class ResourceExistsError(ServerClientError):
    """An active object already has the name.

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
    """No object has that name.

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
        >>> BackendInvalidCredentialsError("the cloud does not accept the key", field="creds.secret_key").message
        '`creds.secret_key`: the cloud does not accept the key'
    """

    code = "backend_invalid_credentials"

    def __init__(self, message: str, *, hint: str | None = None, field: str | None = None) -> None:
        """Args: `field`: the field of the backend's configuration that is wrong."""
        super().__init__(f"`{field}`: {message}" if field else message, hint=hint)
        self.field = field


class NoCapacityError(ServerClientError):
    """No available machine fits the requirements.

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
    """A failure of the gateway.

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
    """A failure of a cloud or a host."""

    code = "backend_error"


class BackendUnavailable(BackendError):
    """The cloud does not answer now."""

    code = "backend_unavailable"
    retryable = True


class Unanswered(BackendError):
    """No try of a call succeeded within its bound. A try without an answer may still take effect."""

    code = "unanswered"


class HostUnreachable(BackendError):
    """The link to the host's agent is down."""

    code = "host_unreachable"
    retryable = True


class AgentRefused(BackendError):
    """The agent on the host refused a command."""

    code = "agent_refused"


class HostTrouble(AgentRefused):
    """The agent refused because of its host: another host may succeed, or this one later."""

    code = "host_trouble"


class LeaseLost(BackendError):
    """Another server owns the instance now."""

    code = "lease_lost"


class Conflict(DstackError):
    """Another writer changed the object first."""

    code = "conflict"
    retryable = True


class IllegalMove(DstackError):
    """A change of status that the lifecycle does not allow."""

    code = "illegal_move"


def client_closed() -> ServerUnreachableError:
    """Return the error of every call on a closed client."""
    return ServerUnreachableError("The client is closed", hint="Create a new client")


def error_of_code(code: str, message: str, hint: str | None) -> DstackError:
    """Return the error of a `code` from the wire; a `ServerError` if the code is unknown."""
    todo: list[type[DstackError]] = [DstackError]
    while todo:
        kind = todo.pop()
        if kind.code == code:
            return kind(message, hint=hint)
        todo.extend(kind.__subclasses__())
    return ServerError(message, hint=hint)
