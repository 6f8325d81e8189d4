"""Repos: which a user has initialized, and with which credentials."""

import json

from dstack.operations.context import Action, Context, authorize
from dstack.operations.secrets import sealed
from dstack.protocol.requests import InitRepo
from dstack.protocol.views import RepoList, RepoView
from dstack.store import secrets
from dstack.store.secrets import Repo
from dstack.store.tx import Tx
from dstack.store.users import User


async def init(context: Context, user: User, project: str, repo_id: str, request: InitRepo) -> None:
    """Store a repo with its credentials, in place of an earlier one.

    Raises:
        InvalidRequestError: there are credentials, and the server has no key to encrypt them with.
    """
    credentials = {name: value for name in ("private_key", "token") if (value := getattr(request, name)) is not None}
    kept = sealed(context, json.dumps(credentials)) if credentials else None

    def write(tx: Tx) -> None:
        caller = authorize(tx, user, project, Action.RUN)
        secrets.put_repo(tx, caller.project.id, user.id, Repo(repo_id, request.kind, request.url, kept))

    await context.db.write(write)


async def list_all(context: Context, user: User, project: str) -> RepoList:
    """All repos that the user has initialized, without credentials."""

    def read(tx: Tx) -> RepoList:
        found = secrets.list_repos(tx, authorize(tx, user, project, Action.READ).project.id, user.id)
        return RepoList(repos=[RepoView(id=repo.id, kind=repo.kind, url=repo.url) for repo in found])

    return await context.db.read(read)
