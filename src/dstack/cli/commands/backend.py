"""`dstack backend`: the sources of machines of a project, or of all projects."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack.api import Backend, Client
    from dstack.protocol.backends import BackendCheckView

HELP = "list, add, check and delete backends: the sources of machines"
FIELDS = "the fields of one backend, such as `type: aws`"
HEADERS = ("NAME", "TYPE", "PROJECT", "MACHINES", "STATE")
LOOK = "They may exist and cost money, and dstack does not look for them any more; look in the cloud's console"
CALLS = ("CALL", "COUNT", "FAILED", "RUNNING", "MEDIAN", "LONGEST", "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", dest="action")
    parser.set_defaults(json=False, for_all=False)  # without an action, the list
    every = actions.add_parser("list", help="the backends that the project may use")
    add = actions.add_parser("add", help="check a backend and add it, or change its configuration")
    add.add_argument("file", metavar="FILE", help="its configuration in YAML, with its `type`; `-` for stdin")
    add.add_argument("-n", "--name", metavar="NAME", help="its name (default: `name` of the file, or its type)")
    check = actions.add_parser("check", help="check a backend's credentials, and show how it answers")
    delete = actions.add_parser("delete", help="delete a backend")
    how = delete.add_mutually_exclusive_group()
    how.add_argument("--drain", action="store_true", help="let its jobs end and its machines go first")
    how.add_argument("--force", action="store_true", help="give up its machines, since its cloud never answers again")
    delete.add_argument("-y", "--yes", action="store_true", help="do not ask")
    for one in (check, delete):
        one.add_argument("name", metavar="NAME")
    for one in (every, add, check, delete):
        one.add_argument("--for-all", action="store_true", help="for all projects; for admins of the server")
        one.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do the action; return 1 where a backend fails its check."""
    from dstack.cli.clients import client_of

    client = client_of(arguments)
    match arguments.action:
        case "add":
            _add(client, arguments)
        case "check":
            return _check(client, arguments)
        case "delete":
            return _delete(client, arguments)
        case _:
            _list(client, arguments)
    return 0


def _list(client: "Client", arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from dstack.cli import words

    found = client.backends.list(arguments.for_all)
    if arguments.json:
        words.show(json.dumps([asdict(one) for one in found], indent=2))
        return
    rows = []
    for one in found:
        state = "does not answer" if one.is_silent else "ready"
        state = "is being removed" if one.is_removing else one.fault or state
        rows.append((one.name, one.type, one.project or "all", str(one.machines), state))
    words.show(words.table(HEADERS, rows, is_fitted=True))


def _add(client: "Client", arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from dstack.cli import words
    from dstack.cli.configurations import text_of
    from dstack.errors import ConfigurationError, InvalidRequestError
    from dstack.kit.text import shown
    from dstack.spec.mistakes import Mistake
    from dstack.spec.yaml import read_yaml

    filename = "stdin" if arguments.file == "-" else arguments.file
    text = text_of(arguments.file, hint="Write the backend's `type` and `creds` into it")
    document = read_yaml(text, filename, FIELDS)
    if not isinstance(document.data, dict):
        raise ConfigurationError(f"{filename}:1:1: expected {FIELDS}, found {shown(document.data)}")
    try:
        added = client.backends.add(document.data, arguments.name, arguments.for_all)
    except InvalidRequestError as error:
        if not error.mistakes or (arguments.name and error.mistakes[0][0] == ("name",)):
            raise  # its mistake has no place in the file
        raise document.refusal_of(Mistake(*one) for one in error.mistakes) from None
    if arguments.json:
        words.show(json.dumps(asdict(added), indent=2))
    else:
        whom = f"the project `{added.project}`" if added.project else "all projects"
        words.say(f"The backend `{added.name}` answers, and {whom} may use it")


def _check(client: "Client", arguments: argparse.Namespace) -> int:
    from dstack.cli import words
    from dstack.errors import BackendError

    found = client.backends.check(arguments.name, arguments.for_all)
    if arguments.json:
        words.show_json(found)
        return int(found.error is not None)
    if found.calls:
        words.show(words.table(CALLS, _rows_of(found), is_fitted=True))
    if found.error is not None:
        words.say_error(BackendError(f"The backend `{found.name}` cannot be used: {found.error}"))
        return 1
    words.say(f"The backend `{found.name}` can be used")
    return 0


def _rows_of(found: "BackendCheckView") -> list[tuple[str, ...]]:
    return [
        (
            one.verb,
            str(one.count),
            str(one.failed),
            str(one.running),
            f"{one.median_s:.1f} s",
            f"{one.longest_s:.1f} s",
            "slow" if one.slow else "",
        )
        for one in found.calls
    ]


def _delete(client: "Client", arguments: argparse.Namespace) -> int:
    from dstack.cli import words

    how = "Drain and delete" if arguments.drain else "Delete"
    question = f"{how} the backend `{arguments.name}`{' all the same' * arguments.force}?"
    if not arguments.yes:
        found = _find(client, arguments)
        if arguments.force and found.machines:
            _warn(found)
        if not words.confirmed(question, if_not="Nothing was deleted"):
            return 1
    removal = client.backends.delete(arguments.name, arguments.drain, arguments.for_all, arguments.force)
    if removal.given_up:
        words.say(f"These machines of `{removal.name}` were given up, and not confirmed as terminated. {LOOK}:")
        words.say("\n".join(removal.given_up))
    if arguments.json:
        words.show_json(removal)
    elif removal.removed:
        words.say(f"The backend `{removal.name}` is deleted")
    elif removal.machines:
        words.say(f"The backend `{removal.name}` takes no more runs. These machines end after their jobs:")
        words.show("\n".join(removal.machines))
    else:
        words.say(
            f"The backend `{removal.name}` takes no more runs. It goes once no machine of a failed launch can appear: "
            "15 minutes after its last machine has ended"
        )
    return 0


def _warn(backend: "Backend") -> None:
    """Name the machines that are given up."""
    from dstack.cli import words

    words.say(f"{backend.machines} machines of `{backend.name}` are not confirmed as terminated. {LOOK}:")
    more = backend.machines - len(backend.machine_titles)
    words.say("\n".join([*backend.machine_titles, *([f"and {more} more"] if more else [])]))


def _find(client: "Client", arguments: argparse.Namespace) -> "Backend":
    """Return the backend that is to be deleted. Raises `ResourceNotExistsError` before a question is asked."""
    from dstack.errors import ResourceNotExistsError
    from dstack.kit.text import listed

    found = {one.name: one for one in client.backends.list(arguments.for_all)}
    names = [name for name, one in found.items() if not arguments.for_all or one.project is None]
    if arguments.name not in names:
        known = f"Known are {listed(names)}" if names else "`dstack backend add` adds one"
        raise ResourceNotExistsError(f"There is no backend `{arguments.name}`", hint=known)
    return found[arguments.name]
