"""Users, tokens, projects and members over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from dstack.operations import people, projects
from dstack.protocol import requests, routes
from dstack.server.http.calls import At, By, Key, json_of
from dstack.server.http.edge import BodyOf
from dstack.server.http.routing import add

router = APIRouter()

NewUser = Annotated[requests.CreateUser, Depends(BodyOf(requests.CreateUser))]
UserChange = Annotated[requests.UpdateUser, Depends(BodyOf(requests.UpdateUser))]
NewToken = Annotated[requests.CreateToken, Depends(BodyOf(requests.CreateToken))]
NewProject = Annotated[requests.CreateProject, Depends(BodyOf(requests.CreateProject))]
Membership = Annotated[requests.SetMember, Depends(BodyOf(requests.SetMember))]


@add(router, routes.GET_ME)
async def get_me(context: At, user: By) -> Response:
    """Return the caller."""
    return json_of(await people.me(context, user))


@add(router, routes.LIST_USERS)
async def list_users(context: At, user: By) -> Response:
    """Return all users."""
    return json_of(await people.list_all(context, user))


@add(router, routes.CREATE_USER)
async def create_user(context: At, caller: By, body: NewUser, key: Key = None) -> Response:
    """Create a user."""
    view = await people.create(context, caller, body.name, is_admin=body.is_admin, key=key)
    return json_of(view, routes.CREATE_USER.status)


@add(router, routes.UPDATE_USER)
async def update_user(context: At, caller: By, user: str, body: UserChange) -> Response:
    """Change a user."""
    return json_of(await people.update(context, caller, user, is_admin=body.is_admin))


@add(router, routes.DELETE_USER)
async def delete_user(context: At, caller: By, user: str) -> Response:
    """Delete a user."""
    await people.delete(context, caller, user)
    return Response(status_code=routes.DELETE_USER.status)


@add(router, routes.LIST_TOKENS)
async def list_tokens(context: At, caller: By, user: str) -> Response:
    """Return a user's tokens."""
    return json_of(await people.list_tokens(context, caller, user))


@add(router, routes.CREATE_TOKEN)
async def create_token(context: At, caller: By, user: str, body: NewToken, key: Key = None) -> Response:
    """Create a token."""
    return json_of(await people.create_token(context, caller, user, body, key), routes.CREATE_TOKEN.status)


@add(router, routes.DELETE_TOKEN)
async def delete_token(context: At, caller: By, user: str, token: str) -> Response:
    """Delete a token."""
    await people.delete_token(context, caller, user, token)
    return Response(status_code=routes.DELETE_TOKEN.status)


@add(router, routes.LIST_PROJECTS)
async def list_projects(context: At, user: By) -> Response:
    """Return the caller's projects."""
    return json_of(await projects.list_all(context, user))


@add(router, routes.CREATE_PROJECT)
async def create_project(context: At, user: By, body: NewProject, key: Key = None) -> Response:
    """Create a project."""
    return json_of(await projects.create(context, user, body.name, key), routes.CREATE_PROJECT.status)


@add(router, routes.DELETE_PROJECT)
async def delete_project(context: At, user: By, project: str) -> Response:
    """Delete a project."""
    await projects.delete(context, user, project)
    return Response(status_code=routes.DELETE_PROJECT.status)


@add(router, routes.LIST_MEMBERS)
async def list_members(context: At, user: By, project: str) -> Response:
    """Return the members of a project."""
    return json_of(await projects.list_members(context, user, project))


@add(router, routes.SET_MEMBER)
async def set_member(context: At, caller: By, project: str, user: str, body: Membership) -> Response:
    """Add a member, or change a role."""
    return json_of(await projects.set_member(context, caller, project, user, body.role))


@add(router, routes.REMOVE_MEMBER)
async def remove_member(context: At, caller: By, project: str, user: str) -> Response:
    """Remove a member."""
    await projects.remove_member(context, caller, project, user)
    return Response(status_code=routes.REMOVE_MEMBER.status)
