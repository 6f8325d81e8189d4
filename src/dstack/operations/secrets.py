"""Secrets of a project: set, list, read and delete them. Values are kept as ciphertext."""

from msgspec.structs import replace

from dstack.errors import InvalidRequestError, ResourceNotExistsError, StorageUnavailable
from dstack.kit.vault import NoKey, WrongKey
from dstack.operations.context import Action, Context, authorize, record_change
from dstack.protocol.views import SecretList, SecretView
from dstack.spec.secrets import check_name
from dstack.store import secrets
from dstack.store.tx import Tx
from dstack.store.users import User


async def list_all(context: Context, user: User, project: str) -> SecretList:
    """All secrets of a project, without their values."""

    def read(tx: Tx) -> SecretList:
        found = secrets.list_secrets(tx, authorize(tx, user, project, Action.READ).project.id)
        return SecretList(secrets=[SecretView(name=name, updated_at=at) for name, at in found])

    return await context.db.read(read)


async def get(context: Context, user: User, project: str, name: str) -> SecretView:
    """A secret with its value.

    Raises:
        ForbiddenError: the caller's role does not allow it.
        ResourceNotExistsError: the project has no such secret.
    """

    def read(tx: Tx) -> tuple[str, SecretView]:
        project_id = authorize(tx, user, project, Action.READ_SECRETS).project.id
        sealed = secrets.sealed_secrets(tx, project_id, [name])
        known = dict(secrets.list_secrets(tx, project_id))
        if name not in sealed:
            raise _unknown(name, project)
        return sealed[name], SecretView(name=name, updated_at=known[name])

    sealed, view = await context.db.read(read)
    return replace(view, value=opened(context, sealed))


async def set_value(context: Context, user: User, project: str, name: str, value: str) -> None:
    """Keep a secret, in place of an earlier one of that name.

    Raises:
        InvalidRequestError: the name is not valid.
    """
    check_name(name)
    sealed_value = sealed(context, value)

    def write(tx: Tx) -> None:
        caller = authorize(tx, user, project, Action.WRITE_SECRETS)
        secrets.put_secret(tx, caller.project.id, name, sealed_value)
        record_change(tx, user, "secret.set", f"set the secret {name}", caller.project)

    await context.db.write(write)


async def delete(context: Context, user: User, project: str, name: str) -> None:
    """Forget a secret.

    Raises:
        ResourceNotExistsError: the project has no such secret.
    """

    def write(tx: Tx) -> None:
        found = authorize(tx, user, project, Action.WRITE_SECRETS).project
        if name not in secrets.sealed_secrets(tx, found.id, [name]):
            raise _unknown(name, project)
        secrets.delete_secret(tx, found.id, name)
        record_change(tx, user, "secret.deleted", f"deleted the secret {name}", found)

    await context.db.write(write)


def sealed(context: Context, text: str) -> str:
    """The text as ciphertext.

    Raises:
        InvalidRequestError: the server has no key.
        StorageUnavailable: its disk cannot keep one.
    """
    try:
        return context.vault.seal(text)
    except OSError as error:
        raise StorageUnavailable(
            f"The encryption key of secrets cannot be stored in `{error.filename}`: {error.strerror}",
            hint="Free space in that folder on the server's machine; check `df -h` and `df -i`",
        ) from error
    except NoKey:
        raise InvalidRequestError(
            "This server cannot store secrets: it shares its database with others, and has no key",
            hint="Start all of them with the same `DSTACK_ENCRYPTION_KEY`",
        ) from None


def opened(context: Context, text: str) -> str:
    """The text behind a ciphertext.

    Raises:
        InvalidRequestError: the server has another key.
    """
    try:
        return context.vault.open(text)
    except OSError as error:
        raise StorageUnavailable(f"The encryption key of secrets cannot be read: {error.strerror}") from error
    except (WrongKey, NoKey):
        raise InvalidRequestError(
            "The secret was encrypted with another key",
            hint="Start the server with the `DSTACK_ENCRYPTION_KEY` it had, or set the secret again",
        ) from None


def _unknown(name: str, project: str) -> ResourceNotExistsError:
    return ResourceNotExistsError(
        f"There is no secret `{name}` in the project `{project}`", hint="`dstack secret list` shows all"
    )
