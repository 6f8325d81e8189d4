"""The entry point of `dstack`: runs a command's module, and turns errors into messages and exit codes."""

import argparse
import gc
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import Any, NoReturn, Protocol, cast

from dstack import __version__
from dstack.cli import process, words
from dstack.errors import DstackError
from dstack.kit.text import nearest

COMMANDS = (
    *("apply", "attach", "audit", "backend", "config", "delete", "event", "exec", "init", "logs", "metrics", "offer"),
    *("pool", "project", "ps", "run", "schema", "secret", "server", "stop", "user"),
)

PLANNED = {
    "fleet": "`dstack pool` shows all machines",
    "gateway": "`dstack attach RUN` forwards the port of a service to this machine",
    "volume": "`volumes` of a configuration may name folders of the machine",
    "login": "`dstack project add` adds a server with a token",
    "completion": "`dstack --help` shows all commands",
}
"""Commands of later versions, and their replacements until then."""
UNLISTED = ("config", "pool", "run", "schema")
"""Commands of scripts for earlier versions, and one for editors; the help names them on one line."""
USUAL = {
    **dict.fromkeys(("rm", "remove", "prune"), "delete"),
    **dict.fromkeys(("ls", "list", "status", "show", "runs", "jobs"), "ps"),
    **dict.fromkeys(("ssh", "connect", "forward", "open"), "attach"),
    **dict.fromkeys(("kill", "cancel", "abort", "down", "end"), "stop"),
    **dict.fromkeys(("submit", "launch", "start", "create", "up"), "apply"),
    **dict.fromkeys(("shell", "sh"), "exec"),
    **dict.fromkeys(("log", "tail"), "logs"),
    **dict.fromkeys(("history", "watch"), "event"),
    **dict.fromkeys(("top", "stats"), "metrics"),
}
"""The words of other tools, and the commands that do the same."""
ABOUT = "Run AI workloads on the cheapest machine that fits."
MORE_ABOUT = "Also: `schema`; old names: `config` (`project add`), `run` (`apply`), `pool`"
OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""Many more than Python's own: imports make a hundred thousand objects, and none of them is garbage."""

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Command(Protocol):
    """The contents of a command's module."""

    HELP: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _One(argparse.ArgumentParser):
    """The arguments of one command; an error shows its own usage and the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Write the usage and the error, and exit with 2."""
        words.say(self._short_usage().rstrip())
        words.say(f"{self.prog}: error: {message}")
        self.exit(2)

    def _short_usage(self) -> str:
        """Return the usage; without its options where they need more than one line, since the error counts."""
        usage = self.format_usage()
        if usage.count("\n") == 1:
            return usage
        formatter = self.formatter_class(prog=f"{self.prog} [options]")
        formatter.add_usage(None, self._get_positional_actions(), [])
        return formatter.format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments, all of which have to be known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._about(unknown[0].partition("=")[0]))
        return found, []

    def _about(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument `{word}`"
        options = [option for action in self._actions for option in action.option_strings]
        long = [option for option in options if option.startswith("--")]
        guess = nearest(word, long) or next((option for option in long if option.startswith(f"-{word}")), None)
        advice = f"; did you mean `{guess}`?" if guess else "."
        return f"there is no option `{word}`{advice} `{self.prog} --help` shows all"


class _Root(_One):
    """The commands; an error about an unknown one names the nearest, not all of them."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments. An unknown option before the command would make its value look like a command."""
        self._given = list(args)
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """Return the help, which fits a terminal of 24 lines and 80 columns."""
        rows = [one for action in self._actions for one in getattr(action, "_choices_actions", ())]
        options = (
            f"{', '.join(one.option_strings)}{f' {one.metavar}' if one.metavar else ''}"
            for one in self._get_optional_actions()
        )
        return "\n".join(
            (
                f"{self.format_usage()}{self.description}\n",
                "commands (`dstack COMMAND --help` shows the options of one):",
                *(f"  {one.dest:<7}  {one.help}" for one in rows),
                f"  {', '.join(options)}",
                f"{self.epilog}\n",
            )
        )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        planned = next((word for word in (value, value.removesuffix("s")) if word in PLANNED), None)
        if planned is not None and value not in COMMANDS:
            self.error(f"`dstack {value}` is not in this version yet; until then, {PLANNED[planned]}")
        if action.choices is not None and value not in COMMANDS:
            before = self._given[: self._given.index(value)] if value in self._given else []
            if unknown := [word for word in before if word[:1] == "-" and not self._is_option(word)]:
                self.error(self._about(unknown[0].partition("=")[0]))
            guess = USUAL.get(value) or nearest(value, COMMANDS)
            advice = f"; did you mean `{guess}`?" if guess else "."
            self.error(f"there is no command `{value}`{advice} `dstack --help` shows all")

    def _is_option(self, word: str) -> bool:
        return word.partition("=")[0] in self._option_string_actions


def program() -> int:
    """Run `main` as a process of its own, which starts and ends quickly; return the exit code."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else it reads about every package that is installed
    _defer("ssl")  # `http.client` imports it, and seldom uses it
    code = main()
    if threading.active_count() == 1:
        # The kernel frees all memory at once; the interpreter would free it object by object.
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError):  # a failure to write has been reported
                stream.flush()
        os._exit(code)
    return code


def _defer(name: str) -> None:
    """Let a module load at its first use. The load has no lock: only for modules that the main thread uses first."""
    spec = find_spec(name)
    if spec is None or spec.loader is None or name in sys.modules:
        return
    spec.loader = LazyLoader(spec.loader)
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, or show all commands; return the exit code.

    Args:
        argv: the arguments; by default those of the process.
    """
    process.prepare_streams()
    try:
        with process.ended_in_good_order():
            return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            words.say("")  # the terminal has written `^C`
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        process.drop(sys.stdout)
        return EXIT_BROKEN_PIPE
    except Exception as error:  # the boundary: users get a sentence, not a traceback
        if os.environ.get("DSTACK_DEBUG"):
            raise
        words.say_error(_in_words(error))
        return EXIT_ERROR


def _run(given: Sequence[str]) -> int:
    arguments = parser(given).parse_args(given or ["--help"])
    code: int = arguments.run(arguments)
    with process.output():
        sys.stdout.flush()
    return code


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the commands named in `argv`, or of all commands."""
    common = _One(add_help=False, argument_default=argparse.SUPPRESS)
    _add_project(common)
    root = _Root(prog="dstack", description=ABOUT, epilog=MORE_ABOUT, parents=[common])
    root.add_argument("--version", action="version", version=f"dstack {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_One)
    named = [name for name in COMMANDS if name in argv]
    for name in named or COMMANDS:
        command = cast(Command, import_module(f"dstack.cli.commands.{name}"))
        listed: dict[str, Any] = {} if name in UNLISTED else {"help": command.HELP}
        one = commands.add_parser(name, **listed, description=command.HELP, parents=[common])
        command.add_arguments(one)
        for nested in (action for action in one._actions if isinstance(action, argparse._SubParsersAction)):
            for of_action in nested.choices.values():
                _add_project(of_action)
        one.set_defaults(run=command.run)
    return root


def _add_project(to: argparse.ArgumentParser) -> None:
    """Add `--project`, which may stand before or after a command and its action."""
    about = "the project (default: the one set in `~/.dstack/config.yml`)"
    to.add_argument("--project", metavar="NAME", default=argparse.SUPPRESS, help=about)


def _in_words(error: Exception) -> DstackError:
    match error:
        case DstackError():
            return error
        case OSError():
            return process.refusal_of(error)
        case _:
            return DstackError(
                f"Something went wrong inside dstack: {type(error).__name__}: {error}",
                hint="Set `DSTACK_DEBUG=1` to see where, and report it",
            )
