"""Backends: list, add, check and delete them, for one project or for all."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dstack.backends.counts import Counts, Verb
from dstack.domain.backends import BackendRecord
from dstack.domain.roles import ALLOWED
from dstack.errors import (
    BackendInvalidCredentialsError,
    DstackError,
    ForbiddenError,
    InvalidRequestError,
    ResourceNotExistsError,
)
from dstack.kit.text import first_of, listed
from dstack.operations import backend_rows, giving_up
from dstack.operations.context import Action, Caller, Context, authorize, authorize_on_server
from dstack.protocol.backends import BackendCheckView, BackendList, BackendRemovalView, BackendView, CallsView
from dstack.spec.mistakes import Mistaken
from dstack.store import backends, events, users
from dstack.store.tx import Tx
from dstack.store.users import User

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 20.0
TITLES_MAX = 100
"""The bound of machines that a view of a backend names."""


async def list_for(context: Context, user: User, project: str | None) -> BackendList:
    """Return the backends that a project may use; for None, those of all projects.

    Raises:
        ForbiddenError: the caller may not see those of all projects.
    """

    def read(tx: Tx) -> list[BackendView]:
        if project is None:
            authorize_on_server(tx, user, Action.MANAGE_SERVER)
            rows = [_view(tx, context, one, shows_config=True) for one in backends.every(tx)]
        else:
            caller = authorize(tx, user, project, Action.READ)
            usable = backends.usable_by(tx, caller.project.id)
            rows = [_view(tx, context, one, shows_config=_may_change(caller, one)) for one in usable]
        return [*_of_settings(tx, context), *rows]

    return BackendList(backends=await context.db.read(read))


def _may_change(caller: Caller, record: BackendRecord) -> bool:
    is_own = record.project_id == caller.project.id and caller.role in ALLOWED[Action.MANAGE_BACKENDS]
    return is_own or caller.user.is_admin


def _of_settings(tx: Tx, context: Context) -> list[BackendView]:
    """Return the backends without rows that new runs may use."""
    return [_view(tx, context, one, shows_config=False) for one in _without_rows(context)]


def _without_rows(context: Context) -> list[BackendRecord]:
    of_settings = [one for one in context.backends.records() if not one.is_row]
    return [one for one in of_settings if one.id not in context.catalog.hidden]


def _view(tx: Tx, context: Context, record: BackendRecord, *, shows_config: bool) -> BackendView:
    configured = context.backends.find(record.id)
    names = users.names_of(tx, [record.project_id] if record.project_id else [])
    machines = backends.machines_of(tx, record.id)
    return BackendView(
        name=record.name,
        silent=record.id in context.catalog.silent,
        type=record.type,
        project=names.get(record.project_id or ""),
        config=dict(record.config) if shows_config else {},
        fault=None if configured is None else configured.fault or None,
        removing=record.closing_since is not None,
        machines=len(machines),
        machine_titles=[giving_up.title_of(one) for one in machines[:TITLES_MAX]] if shows_config else [],
        updated_at=record.updated_at,
    )


async def put(context: Context, user: User, project: str | None, name: str, config: Mapping[str, Any]) -> BackendView:
    """Check a backend, and add it; or change the one of that name in the same project. Its machines go on.

    Args:
        project: the only project that is to use it; None for all projects.
        name: its name.
        config: its configuration with its credentials.

    Raises:
        BackendInvalidCredentialsError: the cloud does not accept the credentials.
        BackendUnavailable: the cloud does not answer. Nothing was stored.
        InvalidRequestError: the configuration has mistakes, or the server has no key to encrypt credentials with. Or
            machines of the backend run, and the account lists no such machine.
        ResourceExistsError: another backend that the project uses has the name.
    """
    running = await context.db.read(lambda tx: _running_in(tx, _scope(tx, user, project), name))
    try:
        named = {**config, "name": name}  # beside the event loop: a driver's module may import an SDK
        wanted = await asyncio.to_thread(backend_rows.wanted_of, named, project, context.drivers)
    except Mistaken as error:
        mistakes = [(one.path, one.text) for one in error.mistakes]
        raise InvalidRequestError(error.with_fields().message, mistakes=mistakes) from None
    new = backend_rows.record_of(context, wanted, None)
    driver = await asyncio.to_thread(context.drivers.make, wanted.config)
    if not await context.backends.try_out(new, driver, running, timeout_s=CHECK_TIMEOUT_S):
        raise InvalidRequestError(
            f"The account of these credentials does not list the machines that run in the backend `{name}`"
            f" ({len(running)})",
            hint="Give another account another name; delete the backend with `--drain` first to keep the name",
        )

    def write(tx: Tx) -> BackendView:
        record = replace(new, project_id=_scope(tx, user, project))
        written = backend_rows.put(tx, context, record, actor=f"user {user.name}")
        stored = backends.find(tx, written.id)
        assert stored is not None, "it was just written"
        return _view(tx, context, stored, shows_config=True)

    return await context.db.write(write)


def _running_in(tx: Tx, project_id: str | None, name: str) -> frozenset[str]:
    """Return the machines of a backend whose agents answer: its account lists them, and another one does not."""
    return frozenset(
        machine.id
        for record in backends.usable_by(tx, project_id)
        if record.name == name and record.project_id == project_id
        for machine in backends.machines_of(tx, record.id)
        if machine.takes_jobs and machine.agent_seen_at is not None and machine.unreachable_since is None
    )


async def check(context: Context, user: User, project: str | None, name: str) -> BackendCheckView:
    """Ask a backend whether it can be used as configured; report how it has answered so far.

    Raises:
        ResourceNotExistsError: the project has no such backend.
    """
    id = await context.db.read(lambda tx: _find(tx, context, _scope(tx, user, project), name).id)
    configured = context.backends.find(id)
    if configured is not None and configured.fault:
        return BackendCheckView(name=name, error=configured.fault, calls=_calls(configured.counts))
    problem: str | None = None
    field: str | None = None
    try:
        await context.backends.call(id, Verb.CHECK, lambda backend: backend.check(), timeout_s=CHECK_TIMEOUT_S)
    except BackendInvalidCredentialsError as error:
        problem, field = error.message, error.field
    except (DstackError, OSError) as error:
        problem = error.message if isinstance(error, DstackError) else str(error)
    except Exception as error:  # a driver's bug is reported to the caller
        log.exception("The check of the backend %s failed", name)
        problem = f"its driver failed: {type(error).__name__}; the server's log has the details"
    calls = [] if configured is None else _calls(configured.counts)
    return BackendCheckView(name=name, error=problem, field=field, calls=calls)


def _calls(counts: Counts) -> list[CallsView]:
    return [
        CallsView(
            verb=verb.value,
            count=counted.count,
            failed=counted.failed,
            running=counted.running,
            median_s=counted.median_s,
            longest_s=counted.longest_s,
            slow=counted.is_slow,
        )
        for verb, counted in sorted(counts.by_verb.items())
    ]


async def delete(
    context: Context, user: User, project: str | None, name: str, *, drain: bool, force: bool = False
) -> BackendRemovalView:
    """Remove a backend: at once where no machine can be left, else as soon as that is certain.

    Args:
        drain: whether to remove it though it has machines: they take no more jobs, and end once they have none.
        force: whether to remove it now, and give up the machines that it does not confirm as terminated.

    Raises:
        InvalidRequestError: it has machines, and is neither to be drained nor forced; or it has no row. Or it is to be
            forced, and jobs run there whose agents answer.
        ResourceNotExistsError: the project has no such backend.
    """
    if drain and force:
        raise InvalidRequestError("A backend is either drained or forced", hint="Choose `--drain` or `--force`")

    def write(tx: Tx) -> BackendRemovalView:
        record = _find(tx, context, _scope(tx, user, project), name)
        if not record.is_row:
            raise InvalidRequestError(
                f"The backend `{name}` is there by the server's settings",
                hint="Start the server with `DSTACK_LOCAL_BACKEND=0`" if name == "local" else None,
            )
        if project is not None and record.project_id is None:
            raise ForbiddenError(
                f"The backend `{name}` is for all projects, and not the project's own",
                hint="An admin of the server deletes it with `--for-all`",
            )
        if force and (record.closing_since is not None or backends.machines_of(tx, record.id)):
            return giving_up.give_up(tx, user, record)
        return _removed(tx, user, record, drain=drain)

    return await context.db.write(write)


def _removed(tx: Tx, user: User, record: BackendRecord, *, drain: bool) -> BackendRemovalView:
    machines = [giving_up.title_of(one) for one in backends.machines_of(tx, record.id)]
    if machines and not drain:
        raise InvalidRequestError(
            f"The backend `{record.name}` has machines that have not ended ({len(machines)}): {first_of(machines, 10)}",
            hint="Let its jobs end and its machines go with `--drain`, or stop the runs first. "
            "If its cloud never answers again, `--force` gives the machines up",
        )
    if record.closing_since is None:
        backends.put(tx, replace(record, closing_since=tx.clock.now()))
        how = "drains" if machines else "removed"
        message = f"{user.name} {how} the backend {record.name} ({record.type})"
        actor, project_id = f"user {user.name}", record.project_id
        events.add_line(tx, actor=actor, kind="backend.removed", message=message, project_id=project_id)
    backends.drain(tx, record.id)
    is_gone = backends.remove_if_over(tx, record.id)
    return BackendRemovalView(name=record.name, removed=is_gone, machines=machines)


def _scope(tx: Tx, user: User, project: str | None) -> str | None:
    """Return the id of the project whose backends the caller may manage; None for those of all projects."""
    if project is None:
        authorize_on_server(tx, user, Action.MANAGE_SERVER)
        return None
    return authorize(tx, user, project, Action.MANAGE_BACKENDS).project.id


def _find(tx: Tx, context: Context, project_id: str | None, name: str) -> BackendRecord:
    """Return the backend that is called so by a project; names of rows are never those of the server's settings."""
    rows = [one for one in backends.usable_by(tx, project_id) if one.name == name]
    of_settings = context.backends.find(name)
    if not rows and (of_settings is None or of_settings.record.is_row):
        known = sorted(one.name for one in [*backends.usable_by(tx, project_id), *_without_rows(context)])
        hint = f"Known are {listed(known)}" if known else "`dstack backend add` adds one"
        raise ResourceNotExistsError(f"There is no backend `{name}`", hint=hint)
    return rows[0] if rows or of_settings is None else of_settings.record
