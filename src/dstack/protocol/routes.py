"""Every endpoint: method, path, request, view. Server and client both read this, so they cannot disagree.

`{run}` is a run's name (the latest run of that name) or its id (ids start with a digit, names with a letter).
"""

from dataclasses import dataclass

from pydantic import BaseModel

from dstack.protocol import requests, views


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `view` is None where it answers with bytes or with nothing."""

    method: str
    path: str
    request: type[BaseModel] | None
    view: type[BaseModel] | None
    status: int = 200


HEALTH = Route("GET", "/api/health", None, views.HealthView)
"""Without a token."""

AUDIT = Route("GET", "/api/audit", None, views.AuditView)
"""For admins of the server: asks all backends what they have."""

PLAN_RUN = Route("POST", "/api/projects/{project}/runs/plan", requests.SubmitRun, views.PlanView)
SUBMIT_RUN = Route("POST", "/api/projects/{project}/runs", requests.SubmitRun, views.RunView, 201)
"""Header `Idempotency-Key`: the same key gives the same run."""
LIST_RUNS = Route("GET", "/api/projects/{project}/runs", None, views.RunPage)
"""Query `all` (finished ones too; without it: unfinished runs, or the last finished one where there are none), `limit`
(at most 100), `before` (a run's id)."""
GET_RUN = Route("GET", "/api/projects/{project}/runs/{run}", None, views.RunView)
STOP_RUN = Route("POST", "/api/projects/{project}/runs/{run}/stop", requests.StopRun, views.RunView)
DELETE_RUN = Route("DELETE", "/api/projects/{project}/runs/{run}", None, None, 204)
"""Finished runs only: the run, its events and its logs."""
UPDATE_RUN = Route("POST", "/api/projects/{project}/runs/{run}/update", requests.SubmitRun, views.RunView)
"""Unfinished runs only, and only what can be changed while they go on: `ChangeView.in_place`."""
GRANT_ACCESS = Route("POST", "/api/projects/{project}/runs/{run}/access", requests.GrantAccess, views.AccessView)
READ_LOGS = Route("GET", "/api/projects/{project}/runs/{run}/logs", None, None)
"""Query `replica`, `node`, `stream` (`job` or `agent`), `offset` (bytes) or `start_time` (ISO 8601), `follow`.

Answers `application/octet-stream`: the bytes from there on, as they come, until the job has ended where `follow` is
set. The header `Dstack-Log-Offset` is the offset of the first byte. A stream that ends cleanly while the run is
unfinished (the server stopped) is to be asked again from the next offset. With `Accept: text/event-stream` the same
as SSE: `id` is the next offset, `data` is base64, and `event: end` closes the log.
"""
READ_METRICS = Route("GET", "/api/projects/{project}/runs/{run}/metrics", None, views.MetricsView)
"""Query `replica`, `node`, `start_time` (ISO 8601). Of the latest attempt of that job: all of its last hour (of a job
that has ended: its last hour, for seven days), or what came after `start_time`."""
LIST_EVENTS = Route("GET", "/api/projects/{project}/events", None, views.EventPage)
"""Query `run` (name or id), `after` (cursor), `limit` (at most 1000). With `Accept: text/event-stream`: SSE without
end, `id` is the cursor, `data` an `EventView`; a comment line every 15 s keeps the connection known to be alive."""
MISSING_BLOBS = Route("POST", "/api/projects/{project}/blobs/missing", requests.BlobHashes, views.MissingBlobs)
PUT_BLOB = Route("PUT", "/api/projects/{project}/blobs/{hash}", None, None, 204)

LIST_PROJECTS = Route("GET", "/api/projects", None, views.ProjectList)
LIST_BACKENDS = Route("GET", "/api/projects/{project}/backends", None, views.BackendList)
LIST_INSTANCES = Route("GET", "/api/projects/{project}/instances", None, views.InstanceList)
LIST_SECRETS = Route("GET", "/api/projects/{project}/secrets", None, views.SecretList)
GET_SECRET = Route("GET", "/api/projects/{project}/secrets/{secret}", None, views.SecretView)
"""With its value. For admins and managers of the project."""
SET_SECRET = Route("PUT", "/api/projects/{project}/secrets/{secret}", requests.SetSecret, None, 204)
DELETE_SECRET = Route("DELETE", "/api/projects/{project}/secrets/{secret}", None, None, 204)
LIST_REPOS = Route("GET", "/api/projects/{project}/repos", None, views.RepoList)
INIT_REPO = Route("PUT", "/api/projects/{project}/repos/{repo}", requests.InitRepo, None, 204)
"""The credentials are checked by whoever sends them; they replace earlier ones."""
