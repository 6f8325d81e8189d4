"""All endpoints: method, path, request and view. Server and client both use this module, so they cannot disagree.

`{run}` is the name of a run or its id. A name stands for the latest run of that name. An id starts with a digit, and a
name with a letter.
"""

from dataclasses import dataclass

from dstack.protocol import accounts, backends, metrics, views
from dstack.protocol.actions import Action
from dstack.protocol.base import View


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `view` is None if the answer is bytes or empty. `errors` are the statuses that other endpoints of
    this kind do not have."""

    method: str
    path: str
    request: str | None
    """The name of a class in `protocol.requests`. A client that only reads does not import that module."""
    view: type[View] | None
    status: int = 200
    errors: tuple[int, ...] = ()
    media_types: tuple[str, ...] = ()
    """The media types of an answer that is not a view."""
    takes_bytes: bool = False
    """Whether the request's body is bytes."""
    takes_key: bool = False
    """Whether requests with one header `Idempotency-Key` have one effect."""
    action: Action | None = Action.READ
    """The work that a caller must be allowed to do; None if anyone may ask, without a token."""


HEALTH = Route("GET", "/api/health", None, views.HealthView, action=None)
"""Return the server's version. Needs no token."""

AUDIT = Route("GET", "/api/audit", None, backends.AuditView, action=Action.AUDIT)
"""Ask all backends for their machines and compare them with the server's records. For admins of the server."""

READ_CONFIGURATION = Route(
    "POST",
    "/api/configurations",
    "ReadConfiguration",
    views.ConfigurationView,
    errors=(404,),
    action=Action.READ_ACCOUNT,
)
"""Return the canonical form of a configuration, or its mistakes. Creates nothing."""

PLAN_RUN = Route("POST", "/api/projects/{project}/runs/plan", "SubmitRun", views.PlanView, action=Action.RUN)
"""Return the effect of a submit. Creates nothing."""
SUBMIT_RUN = Route(
    "POST",
    "/api/projects/{project}/runs",
    "SubmitRun",
    views.RunView,
    201,
    (409,),
    takes_key=True,
    action=Action.RUN,
)
"""Submit a run. Header `Idempotency-Key`: requests with the same key return the same run."""
LIST_RUNS = Route("GET", "/api/projects/{project}/runs", None, views.RunPage)
"""Return the unfinished runs, or the last finished one if all have finished. Query `all` (finished runs too), `limit`
(at most 100), `before` (a run's id)."""
GET_RUN = Route("GET", "/api/projects/{project}/runs/{run}", None, views.RunView)
"""Return a run."""
STOP_RUN = Route("POST", "/api/projects/{project}/runs/{run}/stop", "StopRun", views.RunView, action=Action.RUN)
"""Stop a run. Returns before the run has ended."""
DELETE_RUN = Route("DELETE", "/api/projects/{project}/runs/{run}", None, None, 204, (400,), action=Action.RUN)
"""Delete a finished run with its events and logs."""
UPDATE_RUN = Route("POST", "/api/projects/{project}/runs/{run}/update", "UpdateRun", views.RunView, action=Action.RUN)
"""Change an unfinished run while it is active. Only changes with `ChangeView.in_place` are accepted."""
GRANT_ACCESS = Route(
    "POST",
    "/api/projects/{project}/runs/{run}/access",
    "GrantAccess",
    views.AccessView,
    errors=(502,),
    action=Action.RUN,
)
"""Authorize an SSH key for a job, and return the job's SSH address."""
READ_LOGS = Route(
    "GET",
    "/api/projects/{project}/runs/{run}/logs",
    None,
    None,
    media_types=("application/octet-stream", "text/event-stream"),
)
"""Return the log of a job from an offset. Query `replica`, `node`, `attempt`, `stream` (`job` or `agent`), `offset`
(bytes) or `start_time` (ISO 8601), `follow`.

The answer is `application/octet-stream`. With `follow`, it continues with new bytes until the job has ended. The header
`Dstack-Log-Offset` is the offset of the first byte. `Dstack-Log-Lost` is the number of requested bytes before it that
were dropped because the log exceeded its size limit. `Dstack-Log-End` is the end of the log when the answer began.

Request the log again from the next offset in two cases. The stream ended while the run is unfinished: the server
stopped. Or it ended before `Dstack-Log-End`: the next bytes were dropped.

With `Accept: text/event-stream`, the answer is server-sent events: `id` is the next offset and `data` is base64.
There, `event: gap` has the number of dropped bytes as its data, and `event: end` closes the log.
"""
READ_METRICS = Route("GET", "/api/projects/{project}/runs/{run}/metrics", None, metrics.MetricsView)
"""Return the metrics of the latest attempt of a job. Query `replica`, `node`, `start_time` (ISO 8601). The answer has
the last hour of the job, or the points after `start_time`. They are kept for seven days after the job's end."""
READ_TRAFFIC = Route(
    "GET", "/api/projects/{project}/runs/{run}/traffic", None, metrics.TrafficHistoryView, errors=(400,)
)
"""Return the traffic of a service. Query `start_time` (ISO 8601). The answer has a point for each ten seconds of the
last hour, or of the time after `start_time`. The last hour is kept for seven days after the service's end."""
LIST_EVENTS = Route("GET", "/api/projects/{project}/events", None, views.EventPage, media_types=("text/event-stream",))
"""Return the events of a project, oldest first. Query `run` (name or id), `after` (cursor), `limit` (at most 1000),
`shows_run`.

With `Accept: text/event-stream`, the answer is server-sent events without end: `id` is the cursor and `data` an
`EventView`. A comment line every 15 s shows that the connection works. With `run`, the comment `CHANGED` reports a
change that has no event, such as the progress of pulling an image. With `shows_run=true` too, an event `run` precedes
the events of a change and replaces that comment: its `data` is the `RunView` after the change."""
CHANGED = ": changed"
RUN_EVENT = "run"
MISSING_BLOBS = Route(
    "POST", "/api/projects/{project}/blobs/missing", "BlobHashes", views.MissingBlobs, action=Action.RUN
)
"""Return the blobs that the server lacks."""
PUT_BLOB = Route("PUT", "/api/projects/{project}/blobs/{hash}", None, None, 204, takes_bytes=True, action=Action.RUN)
"""Store a blob under its hash. The body is the blob's bytes."""

GET_ME = Route("GET", "/api/users/me", None, accounts.UserView, action=Action.READ_ACCOUNT)
"""Return the caller."""
LIST_USERS = Route("GET", "/api/users", None, accounts.UserList, action=Action.MANAGE_USERS)
"""Return all users of the server. For admins of the server, as all that changes users."""
CREATE_USER = Route(
    "POST", "/api/users", "CreateUser", accounts.UserView, 201, (409,), takes_key=True, action=Action.MANAGE_USERS
)
"""Create a user, without a token and without projects. The name of a deleted user stands for that user again.
Header `Idempotency-Key`: a repeated request returns the user again."""
UPDATE_USER = Route(
    "PUT", "/api/users/{user}", "UpdateUser", accounts.UserView, errors=(404,), action=Action.MANAGE_USERS
)
"""Make a user an admin of the server, or no admin."""
DELETE_USER = Route("DELETE", "/api/users/{user}", None, None, 204, (400, 404), action=Action.MANAGE_USERS)
"""Delete a user's tokens, memberships and credentials. The finished runs stay."""
LIST_TOKENS = Route(
    "GET", "/api/users/{user}/tokens", None, accounts.TokenList, errors=(404,), action=Action.READ_ACCOUNT
)
"""Return a user's tokens, without their values. Others' tokens are for admins of the server."""
CREATE_TOKEN = Route(
    "POST",
    "/api/users/{user}/tokens",
    "CreateToken",
    accounts.TokenView,
    201,
    (404, 409),
    takes_key=True,
    action=Action.MANAGE_TOKENS,
)
"""Create a token. This answer alone has its value. Header `Idempotency-Key`: a repeated request replaces the value,
since the server does not keep it. The former value is refused then."""
DELETE_TOKEN = Route(
    "DELETE", "/api/users/{user}/tokens/{token}", None, None, 204, (400, 404), action=Action.MANAGE_TOKENS
)
"""Delete a token. Streams that were opened with it end within 15 s."""

CREATE_PROJECT = Route(
    "POST",
    "/api/projects",
    "CreateProject",
    accounts.ProjectView,
    201,
    (409,),
    takes_key=True,
    action=Action.CREATE_PROJECTS,
)
"""Create a project. The caller becomes its admin. Header `Idempotency-Key`: a repeated request returns the project
again."""
DELETE_PROJECT = Route("DELETE", "/api/projects/{project}", None, None, 204, (400,), action=Action.DELETE_PROJECT)
"""Delete a project with its runs, logs, secrets and members. All of its runs must have finished."""
LIST_MEMBERS = Route("GET", "/api/projects/{project}/members", None, accounts.MemberList)
"""Return the members of a project."""
SET_MEMBER = Route(
    "PUT",
    "/api/projects/{project}/members/{user}",
    "SetMember",
    accounts.MemberView,
    errors=(400, 404),
    action=Action.MANAGE_MEMBERS,
)
"""Add a member, or change a member's role. The role must not be above the caller's own."""
REMOVE_MEMBER = Route(
    "DELETE",
    "/api/projects/{project}/members/{user}",
    None,
    None,
    204,
    (400, 404),
    action=Action.MANAGE_MEMBERS,
)
"""Remove a member. Their active runs go on."""
LIST_PROJECTS = Route("GET", "/api/projects", None, accounts.ProjectList, action=Action.READ_ACCOUNT)
"""Return the projects that the user may use."""
LIST_BACKENDS = Route("GET", "/api/projects/{project}/backends", None, backends.BackendList)
"""Return the backends of a project."""
PUT_BACKEND = Route(
    "PUT",
    "/api/projects/{project}/backends/{backend}",
    "PutBackend",
    backends.BackendView,
    errors=(400, 409, 502),
    action=Action.MANAGE_BACKENDS,
)
"""Check a backend, and add it to a project; or change the configuration of the project's backend of that name. Machines
go on. Credentials are stored encrypted, and no answer shows them."""
CHECK_BACKEND = Route(
    "POST",
    "/api/projects/{project}/backends/{backend}/check",
    None,
    backends.BackendCheckView,
    errors=(404,),
    action=Action.MANAGE_BACKENDS,
)
"""Check the credentials of a backend now, and return how fast and how often its calls were answered."""
DELETE_BACKEND = Route(
    "DELETE",
    "/api/projects/{project}/backends/{backend}",
    None,
    backends.BackendRemovalView,
    errors=(400, 404),
    action=Action.MANAGE_BACKENDS,
)
"""Delete a backend of a project. With machines that have not ended, this is refused, and the answer lists them. Query
`drain=true`: no new machines there; jobs end by themselves; then the machines end, and the backend goes. Query
`force=true`: the backend goes now. Its machines are given up, and the answer lists them: they may exist, and cost
money. This is refused while jobs run on machines whose agents answer."""
LIST_ALL_BACKENDS = Route("GET", "/api/backends", None, backends.BackendList, action=Action.MANAGE_SERVER)
"""Return the backends of all projects. For admins of the server, as all that concerns backends for all projects."""
PUT_BACKEND_FOR_ALL = Route(
    "PUT",
    "/api/backends/{backend}",
    "PutBackend",
    backends.BackendView,
    errors=(400, 409, 502),
    action=Action.MANAGE_SERVER,
)
"""Check a backend, and add it for all projects; or change the configuration of the one of that name."""
CHECK_BACKEND_FOR_ALL = Route(
    "POST",
    "/api/backends/{backend}/check",
    None,
    backends.BackendCheckView,
    errors=(404,),
    action=Action.MANAGE_SERVER,
)
"""Check a backend for all projects."""
DELETE_BACKEND_FOR_ALL = Route(
    "DELETE",
    "/api/backends/{backend}",
    None,
    backends.BackendRemovalView,
    errors=(400, 404),
    action=Action.MANAGE_SERVER,
)
"""Delete a backend for all projects, like one of a project."""
LIST_INSTANCES = Route("GET", "/api/projects/{project}/instances", None, views.InstanceList)
"""Return the instances that a project uses or may use."""
LIST_SECRETS = Route("GET", "/api/projects/{project}/secrets", None, views.SecretList)
"""Return the secrets of a project, without their values."""
GET_SECRET = Route(
    "GET", "/api/projects/{project}/secrets/{secret}", None, views.SecretView, errors=(400,), action=Action.READ_SECRETS
)
"""Return a secret with its value. For admins and managers of the project."""
SET_SECRET = Route(
    "PUT", "/api/projects/{project}/secrets/{secret}", "SetSecret", None, 204, action=Action.WRITE_SECRETS
)
"""Store a secret. Replaces the secret of that name."""
DELETE_SECRET = Route(
    "DELETE", "/api/projects/{project}/secrets/{secret}", None, None, 204, action=Action.WRITE_SECRETS
)
"""Delete a secret."""
LIST_REPOS = Route("GET", "/api/projects/{project}/repos", None, views.RepoList)
"""Return the repos that the user has initialized in a project."""
INIT_REPO = Route("PUT", "/api/projects/{project}/repos/{repo}", "InitRepo", None, 204, action=Action.RUN)
"""Initialize a repo with its credentials, which replace earlier ones. The client must test the credentials before."""
