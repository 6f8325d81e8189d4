"""`dstack project`: the projects that this user's commands use, and those of the server with their members."""

import argparse

from dstack.protocol.actions import Role

HELP = "list, add, create and delete projects; manage their members"
NONE_IS_LEFT = "No project is configured: commands start a local server when they need one"
HEADERS = ("NAME", "URL", "DEFAULT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", dest="action")
    parser.set_defaults(json=False, on_server=False)  # without an action, the list
    every = actions.add_parser("list", help="all projects in `~/.dstack/config.yml`")
    every.add_argument("--on-server", action="store_true", help="your projects on the server, with your roles")
    every.add_argument("--json", action="store_true", help="as JSON")
    add = actions.add_parser("add", help="add or update a project")
    add.add_argument("--name", required=True, metavar="NAME")
    add_server_arguments(add)
    choose = actions.add_parser("set-default", help="choose the project that commands use by default")
    choose.add_argument("name", metavar="NAME")
    remove = actions.add_parser("delete", help="remove a project from the file")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--on-server", action="store_true", help="delete the project on the server, with all its runs")
    remove.add_argument("-y", "--yes", action="store_true", help="do not ask")
    create = actions.add_parser("create", help="create a project on the server")
    create.add_argument("name", metavar="NAME")
    members = actions.add_parser("members", help="list the members of the project")
    members.add_argument("--json", action="store_true", help="as JSON")
    change = actions.add_parser("set-member", help="add a member, or change a member's role")
    change.add_argument("user", metavar="USER")
    change.add_argument("role", metavar="ROLE", nargs="?", default=Role.USER, choices=[*Role], help=", ".join(Role))
    drop = actions.add_parser("remove-member", help="remove a member")
    drop.add_argument("user", metavar="USER")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the server and the user's token."""
    parser.add_argument("--url", help="the server's URL (default: that of the server in use, with your token there)")
    parser.add_argument("--token", help="the user's token (default with `--url`: ask for it, or read stdin)")
    parser.add_argument("--default", action="store_true", help="make it the default project")
    parser.add_argument("--offline", action="store_true", help="do not check URL and token with the server")


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    from dstack.api import _projects
    from dstack.cli import words

    match arguments.action:
        case "add":
            add_to_file(arguments.name, arguments)
        case "set-default":
            _projects.choose_default(arguments.name)
            words.say(f"The project `{arguments.name}` is now the default")
        case "create" | "members" | "set-member" | "remove-member":
            _on_server(arguments)
        case "list" if arguments.on_server:
            _on_server(arguments)
        case "delete" if arguments.on_server:
            return _delete_on_server(arguments)
        case "delete":
            _projects.remove_project(arguments.name)
            words.say(f"The project `{arguments.name}` was removed from the file; the server is unchanged")
            _say_what_counts_now()
        case _:
            _list(as_json=arguments.json)
    return 0


def add_to_file(name: str, arguments: argparse.Namespace) -> None:
    """Add a project to the file, once its server has confirmed it."""
    from dstack.api import _projects
    from dstack.cli import words

    url, token = arguments.url, arguments.token
    if url is None:
        in_use = _projects.address_in_use(getattr(arguments, "project", None))
        url, token = in_use.url, in_use.token if token is None else token
    elif token is None:
        token = words.asked_secret(f"Token for `{url}`")
    if not arguments.offline:
        _projects.check_project(name, url, token)
    _projects.add_project(name, url, token, is_default=arguments.default)
    words.say(f"The project `{name}` was added")


def _on_server(arguments: argparse.Namespace) -> None:
    from dstack.cli import words
    from dstack.cli.clients import client_of

    client = client_of(arguments)
    match arguments.action:
        case "create":
            client.create_project(arguments.name)
            words.say(
                f"The project `{arguments.name}` is created. After `dstack project add --name {arguments.name}`, "
                f"commands use it with `--project {arguments.name}`"
            )
        case "set-member":
            client.members.set(arguments.user, arguments.role)
            words.say(f"`{arguments.user}` has the role `{arguments.role}` in the project `{client.project}`")
        case "remove-member":
            client.members.remove(arguments.user)
            words.say(f"`{arguments.user}` is no longer a member of the project `{client.project}`")
        case "list":
            projects = client.projects()
            if arguments.json:
                words.show_json(projects)
            else:
                words.show(words.table(("NAME", "YOUR ROLE"), [(one.name, one.role) for one in projects]))
        case _:
            members = client.members.list()
            if arguments.json:
                words.show_json(members)
            else:
                words.show(words.table(("USER", "ROLE"), [(one.user, one.role) for one in members]))


def _delete_on_server(arguments: argparse.Namespace) -> int:
    from dstack.api import _projects
    from dstack.cli import words
    from dstack.cli.clients import client_of

    name = arguments.name
    is_in_file = any(one.name == name for one in _projects.known_projects())
    if is_in_file and "project" not in arguments:
        arguments.project = name  # the file's entry names the server; the default project may be on another one
    client = client_of(arguments)
    question = f"Delete the project `{name}` on the server, with its runs, logs and secrets?"
    if not arguments.yes and not words.confirmed(question, if_not="Nothing was deleted"):
        return 1
    client.delete_project(name)
    rest = f"; `dstack project delete {name}` removes it from the file too" if is_in_file else ""
    words.say(f"The project `{name}` is deleted on the server{rest}")
    return 0


def _list(*, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from dstack.api import _projects
    from dstack.cli import words

    found = _projects.known_projects()
    if as_json:
        words.show(json.dumps([asdict(one) for one in found], indent=2))
    elif found:
        words.show(words.table(HEADERS, [(one.name, one.url, "*" if one.is_default else "") for one in found]))
    else:
        words.say(_none_is_left())


def _none_is_left() -> str:
    from dstack.kit import systems

    return NONE_IS_LEFT if systems.HAS_SERVERS else "No project is set up: `dstack project add` adds one"


def _say_what_counts_now() -> None:
    from dstack.api import _projects
    from dstack.cli import words

    left = _projects.known_projects()
    if not left:
        words.say(_none_is_left())
    elif (default := next((one for one in left if one.is_default), None)) is not None:
        words.say(f"The default is `{default.name}` at {default.url}")
    else:
        words.say("No project is the default now; choose one with `dstack project set-default NAME`")
