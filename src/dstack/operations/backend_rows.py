"""The rows of backends: made of configurations that are judged, with their credentials sealed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dstack.backends import Drivers
from dstack.domain.backends import BackendRecord
from dstack.errors import ConfigurationError, InvalidRequestError, ResourceExistsError
from dstack.operations.context import Context
from dstack.operations.people import check_name
from dstack.operations.secrets import sealed
from dstack.spec.backends import is_type
from dstack.spec.mistakes import Mistake, Mistaken
from dstack.store import backends, events, users
from dstack.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Wanted:
    """A backend to add or change. Its configuration has no mistakes."""

    project: str | None
    """The name of the only project that is to use it; None for all projects."""
    name: str
    config: Mapping[str, Any]
    """The configuration with its credentials."""

    def __repr__(self) -> str:
        return f"Wanted({self.project!r}, {self.name!r})"  # the configuration has secrets


@dataclass(frozen=True, slots=True)
class Configured:
    """The contents of the server's file."""

    projects: Sequence[str] = ()
    """The names of its projects, with or without backends of their own."""
    backends: Sequence[Wanted] = ()


NOTHING = Configured()


def wanted_of(config: Mapping[str, Any], project: str | None, drivers: Drivers) -> Wanted:
    """Return a backend by its configuration, which may have a `name`; the type is the name by default.

    Raises:
        Mistaken: the configuration has mistakes.
    """
    checked = drivers.checked({key: value for key, value in config.items() if key != "name"})
    name = config.get("name", checked["type"])
    try:
        check_name(str(name), "backend")
    except InvalidRequestError as error:
        raise Mistaken([Mistake(("name",), error.message)]) from None
    if is_type(name) and name != checked["type"]:
        raise Mistaken([Mistake(("name",), f"`{name}` is the type of other backends; choose another name")])
    return Wanted(project, str(name), checked)


def put(tx: Tx, context: Context, record: BackendRecord, *, actor: str) -> BackendRecord:
    """Write a row, in place of the row of that name in the same project.

    Args:
        record: the new row; a row that is there keeps its id.

    Raises:
        InvalidRequestError: the row that is there is of another type.
        ResourceExistsError: another backend that the project uses has the name.
    """
    former = None
    for one in backends.every(tx):
        if one.name != record.name:
            continue
        if one.project_id == record.project_id:
            former = one
        elif one.project_id is None or record.project_id is None:
            raise _taken(record, "for all projects" if one.project_id is None else "of a project")
    if record.name in context.backends:
        raise _taken(record, "by the server's settings")
    if former is not None and former.type != record.type:
        raise InvalidRequestError(
            f"The backend `{former.name}` is of the type `{former.type}`, which cannot change",
            hint="Give the new backend another name, or delete the old one first",
        )
    written = record if former is None else replace(record, id=former.id)
    backends.put(tx, written)
    if former is not None and former.closing_since is not None:
        backends.stop_draining(tx, former.id)
    verb = "added" if former is None else "changed"
    whom = actor.removeprefix("user ")
    message = f"{whom} {verb} the backend {written.name} ({written.type})"
    events.add_line(tx, actor=actor, kind=f"backend.{verb}", message=message, project_id=written.project_id)
    return written


def _taken(record: BackendRecord, whose: str) -> ResourceExistsError:
    return ResourceExistsError(
        f"There is a backend `{record.name}` {whose} already", hint="Give the new backend another name"
    )


def record_of(context: Context, wanted: Wanted, project_id: str | None) -> BackendRecord:
    """Return a new row for a backend, with its credentials sealed.

    Raises:
        InvalidRequestError: the server has no key to encrypt them with.
    """
    from dstack.spec.backend_config import split

    shown, secret = split(wanted.config)
    return BackendRecord(
        id=context.ids.new_id(),
        type=wanted.config["type"],
        name=wanted.name,
        project_id=project_id,
        config=shown,
        sealed=sealed(context, json.dumps(secret)) if secret else None,
    )


async def add_missing(context: Context, configured: Configured) -> None:
    """Add the projects and backends of the server's file that are not there yet.

    Raises:
        ConfigurationError: a backend cannot be added.
    """
    try:
        records = [(one, record_of(context, one, None)) for one in configured.backends]
        await context.db.write(lambda tx: _add_missing(tx, context, configured.projects, records))
    except (InvalidRequestError, ResourceExistsError) as error:
        raise ConfigurationError(error.message, hint=error.hint) from error


def _add_missing(
    tx: Tx, context: Context, projects: Sequence[str], wanted: Sequence[tuple[Wanted, BackendRecord]]
) -> None:
    for name in projects:
        _project_id(tx, context, name)
    for one, record in wanted:
        project_id = None if one.project is None else _project_id(tx, context, one.project)
        if not any(row.name == one.name for row in backends.usable_by(tx, project_id)):
            put(tx, context, replace(record, project_id=project_id), actor="config.yml")


def _project_id(tx: Tx, context: Context, name: str) -> str:
    """Return the id of a project, which is created where it is missing, with an admin of the server as its admin."""
    admin = next((one for one in users.list_users(tx) if one.is_admin), None)
    known = users.find_membership(tx, name, "" if admin is None else admin.id)
    if known is not None:
        return known[0].id
    check_name(name, "project")
    if admin is None:
        raise InvalidRequestError(f"There is no project `{name}`, and no admin of the server to create it for")
    id = context.ids.new_id()
    users.add_project(tx, id, name, admin.id)
    return id
