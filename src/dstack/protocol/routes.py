"""Every endpoint: method, path, request, view. Server and client both read this, so they cannot disagree.

`{run}` is a run's name (the latest run of that name) or its id (ids start with a digit, names with a letter).
"""

from dataclasses import dataclass

from pydantic import BaseModel

from dstack.protocol import requests, views


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `view` is None where it answers with bytes or with nothing; `errors` are statuses that not every
    endpoint of its kind answers with."""

    method: str
    path: str
    request: type[BaseModel] | None
    view: type[BaseModel] | None
    status: int = 200
    errors: tuple[int, ...] = ()
    media_types: tuple[str, ...] = ()
    """What it may answer with instead of a view."""
    takes_bytes: bool = False
    """Whether its body is bytes instead of a request."""
    needs_token: bool = True


HEALTH = Route("GET", "/api/health", None, views.HealthView, needs_token=False)

AUDIT = Route("GET", "/api/audit", None, views.AuditView, errors=(403,))
"""For admins of the server: asks all backends what they have."""

PLAN_RUN = Route("POST", "/api/projects/{project}/runs/plan", requests.SubmitRun, views.PlanView)
SUBMIT_RUN = Route("POST", "/api/projects/{project}/runs", requests.SubmitRun, views.RunView, 201, (409,))
"""Header `Idempotency-Key`: the same key gives the same run."""
LIST_RUNS = Route("GET", "/api/projects/{project}/runs", None, views.RunPage)
"""Query `all` (finished ones too; without it: unfinished runs, or the last finished one where there are none), `limit`
(at most 100), `before` (a run's id)."""
GET_RUN = Route("GET", "/api/projects/{project}/runs/{run}", None, views.RunView)
STOP_RUN = Route("POST", "/api/projects/{project}/runs/{run}/stop", requests.StopRun, views.RunView)
DELETE_RUN = Route("DELETE", "/api/projects/{project}/runs/{run}", None, None, 204, (400,))
"""Finished runs only: the run, its events and its logs."""
UPDATE_RUN = Route("POST", "/api/projects/{project}/runs/{run}/update", requests.SubmitRun, views.RunView)
"""Unfinished runs only, and only what can be changed while they go on: `ChangeView.in_place`."""
GRANT_ACCESS = Route(
    "POST", "/api/projects/{project}/runs/{run}/access", requests.GrantAccess, views.AccessView, errors=(502,)
)
READ_LOGS = Route(
    "GET",
    "/api/projects/{project}/runs/{run}/logs",
    None,
    None,
    media_types=("application/octet-stream", "text/event-stream"),
)
"""Query `replica`, `node`, `stream` (`job` or `agent`), `offset` (bytes) or `start_time` (ISO 8601), `follow`.

Answers `application/octet-stream`: the bytes from there on, as they come, until the job has ended where `follow` is
set. The header `Dstack-Log-Offset` is the offset of the first byte, and `Dstack-Log-Lost` says how many bytes before
it, of those that were asked for, are lost (more was printed than is kept). A stream that ends cleanly is to be asked
again from the next offset while the run is unfinished (the server stopped), or where it ends before `Dstack-Log-End`,
the end of the log when the answer began (the next bytes are lost, as the next answer says). With `Accept:
text/event-stream` the same as SSE: `id` is the next offset, `data` is base64, `event: gap` has the number of lost
bytes as its data, and `event: end` closes the log.
"""
READ_METRICS = Route("GET", "/api/projects/{project}/runs/{run}/metrics", None, views.MetricsView)
"""Query `replica`, `node`, `start_time` (ISO 8601). Of the latest attempt of that job: all of its last hour (of a job
that has ended: its last hour, for seven days), or what came after `start_time`."""
LIST_EVENTS = Route("GET", "/api/projects/{project}/events", None, views.EventPage, media_types=("text/event-stream",))
"""Query `run` (name or id), `after` (cursor), `limit` (at most 1000). With `Accept: text/event-stream`: SSE without
end, `id` is the cursor, `data` an `EventView`; a comment line every 15 s keeps the connection known to be alive.
With `run`, the comment `CHANGED` tells that something about the run is new that is not worth an event, such as how far
its image is."""
CHANGED = ": changed"
MISSING_BLOBS = Route("POST", "/api/projects/{project}/blobs/missing", requests.BlobHashes, views.MissingBlobs)
PUT_BLOB = Route("PUT", "/api/projects/{project}/blobs/{hash}", None, None, 204, takes_bytes=True)

LIST_PROJECTS = Route("GET", "/api/projects", None, views.ProjectList)
LIST_BACKENDS = Route("GET", "/api/projects/{project}/backends", None, views.BackendList)
LIST_INSTANCES = Route("GET", "/api/projects/{project}/instances", None, views.InstanceList)
LIST_SECRETS = Route("GET", "/api/projects/{project}/secrets", None, views.SecretList)
GET_SECRET = Route("GET", "/api/projects/{project}/secrets/{secret}", None, views.SecretView, errors=(400, 403))
"""With its value. For admins and managers of the project."""
SET_SECRET = Route("PUT", "/api/projects/{project}/secrets/{secret}", requests.SetSecret, None, 204)
DELETE_SECRET = Route("DELETE", "/api/projects/{project}/secrets/{secret}", None, None, 204)
LIST_REPOS = Route("GET", "/api/projects/{project}/repos", None, views.RepoList)
INIT_REPO = Route("PUT", "/api/projects/{project}/repos/{repo}", requests.InitRepo, None, 204)
"""The credentials are checked by whoever sends them; they replace earlier ones."""
