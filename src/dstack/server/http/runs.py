"""Runs and their configurations over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from dstack.operations import access, configurations, planning, runs, submitting, updating
from dstack.protocol import requests, routes
from dstack.server.http.calls import At, By, Key, json_of
from dstack.server.http.edge import BodyOf
from dstack.server.http.routing import add

router = APIRouter()

Read = Annotated[requests.ReadConfiguration, Depends(BodyOf(requests.ReadConfiguration))]
Submit = Annotated[requests.SubmitRun, Depends(BodyOf(requests.SubmitRun))]
Update = Annotated[requests.UpdateRun, Depends(BodyOf(requests.UpdateRun))]
Stop = Annotated[requests.StopRun, Depends(BodyOf(requests.StopRun))]
Grant = Annotated[requests.GrantAccess, Depends(BodyOf(requests.GrantAccess))]


@add(router, routes.READ_CONFIGURATION)
async def read_configuration(context: At, user: By, body: Read) -> Response:
    """Return the canonical form of a configuration, or its mistakes."""
    return json_of(await configurations.read(context, user, body))


@add(router, routes.PLAN_RUN)
async def plan_run(context: At, user: By, project: str, body: Submit) -> Response:
    """Return the effect that a submit of the same body would have now."""
    return json_of(await planning.plan(context, user, project, body))


@add(router, routes.SUBMIT_RUN)
async def submit_run(context: At, user: By, project: str, body: Submit, key: Key = None) -> Response:
    """Submit a run."""
    return json_of(await submitting.submit(context, user, project, body, key), routes.SUBMIT_RUN.status)


@add(router, routes.LIST_RUNS)
async def list_runs(
    context: At,
    user: By,
    project: str,
    all: bool = False,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    before: str | None = None,
) -> Response:
    """Return a page of runs, newest first."""
    return json_of(await runs.list_page(context, user, project, finished_too=all, limit=limit, before=before))


@add(router, routes.GET_RUN)
async def get_run(context: At, user: By, project: str, run: str) -> Response:
    """Return a run."""
    return json_of(await runs.get(context, user, project, run))


@add(router, routes.STOP_RUN)
async def stop_run(context: At, user: By, project: str, run: str, body: Stop) -> Response:
    """Stop a run."""
    return json_of(await runs.stop(context, user, project, run, abort=body.abort))


@add(router, routes.UPDATE_RUN)
async def update_run(context: At, user: By, project: str, run: str, body: Update) -> Response:
    """Change an active run. The replicas of a service are replaced one by one where that is needed."""
    return json_of(await updating.update(context, user, project, run, body.wish, force=body.force))


@add(router, routes.DELETE_RUN)
async def delete_run(context: At, user: By, project: str, run: str) -> Response:
    """Delete a finished run."""
    await runs.delete(context, user, project, run)
    return Response(status_code=routes.DELETE_RUN.status)


@add(router, routes.GRANT_ACCESS)
async def grant_access(context: At, user: By, project: str, run: str, body: Grant) -> Response:
    """Authorize a public key for a job."""
    return json_of(await access.grant(context, user, project, run, body))
