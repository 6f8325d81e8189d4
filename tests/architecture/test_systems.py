import ast

from tests.architecture.sources import MODULES, shown, tree

CLIENTS = ("api", "cli", "kit", "protocol", "spec", "errors.py")
"""What runs on macOS and Windows too."""
SEAMS = {f"src/dstack/kit/{name}.py" for name in ("clock", "locks", "systems", "terminals")}
"""The modules that may ask which system this is."""
OF_ONE_SYSTEM = {
    *("fcntl", "termios", "tty", "pty", "pwd", "grp", "resource", "readline", "curses", "syslog"),
    *("msvcrt", "winreg", "_winapi", "winsound"),
}


def test_one_place_each_knows_what_differs_between_systems() -> None:
    clients = [path for path in MODULES if shown(path).startswith(tuple(f"src/dstack/{room}" for room in CLIENTS))]
    asking = {shown(path) for path in clients for node in ast.walk(tree(path)) if _asks(node)}
    assert asking == SEAMS


def _asks(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(name.name.partition(".")[0] in OF_ONE_SYSTEM for name in names)
        case ast.ImportFrom(module=module):
            return (module or "").partition(".")[0] in OF_ONE_SYSTEM
        case (
            ast.Attribute(value=ast.Name(id="sys"), attr="platform")
            | ast.Attribute(value=ast.Name(id="os"), attr="name")
        ):
            return True
        case _:
            return False
