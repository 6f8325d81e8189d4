"""Secrets and repos over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from dstack.operations import repos, secrets
from dstack.protocol import requests, routes
from dstack.server.http.calls import At, By, json_of
from dstack.server.http.edge import BodyOf
from dstack.server.http.routing import add

router = APIRouter()

Value = Annotated[requests.SetSecret, Depends(BodyOf(requests.SetSecret))]
Repo = Annotated[requests.InitRepo, Depends(BodyOf(requests.InitRepo))]


@add(router, routes.LIST_SECRETS)
async def list_secrets(context: At, user: By, project: str) -> Response:
    """Return the names of all secrets, without their values."""
    return json_of(await secrets.list_all(context, user, project))


@add(router, routes.GET_SECRET)
async def get_secret(context: At, user: By, project: str, secret: str) -> Response:
    """Return a secret with its value."""
    return json_of(await secrets.get(context, user, project, secret))


@add(router, routes.SET_SECRET)
async def set_secret(context: At, user: By, project: str, secret: str, body: Value) -> Response:
    """Store a secret."""
    await secrets.set_value(context, user, project, secret, body.value)
    return Response(status_code=routes.SET_SECRET.status)


@add(router, routes.DELETE_SECRET)
async def delete_secret(context: At, user: By, project: str, secret: str) -> Response:
    """Delete a secret."""
    await secrets.delete(context, user, project, secret)
    return Response(status_code=routes.DELETE_SECRET.status)


@add(router, routes.LIST_REPOS)
async def list_repos(context: At, user: By, project: str) -> Response:
    """Return the repos that the caller has initialized."""
    return json_of(await repos.list_all(context, user, project))


@add(router, routes.INIT_REPO)
async def init_repo(context: At, user: By, project: str, repo: str, body: Repo) -> Response:
    """Store a repo and the credentials for it."""
    await repos.init(context, user, project, repo, body)
    return Response(status_code=routes.INIT_REPO.status)
