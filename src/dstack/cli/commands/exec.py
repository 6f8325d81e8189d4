"""`dstack exec`: run one command inside a job."""

import argparse
from collections.abc import Sequence
from typing import Any

from dstack.cli import options

HELP = "run a command inside a running job and exit with its exit code"
USAGE = "%(prog)s RUN [options] -- COMMAND…"
EXAMPLES = (
    "The arguments of the command are passed unchanged. For a shell's line: `dstack exec RUN -- sh -c 'ls | wc -l'`"
)


class _Command(argparse.Action):
    """The arguments after the run's name: options, `--`, and the command, which is passed unchanged."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        ours, command = _split(values)
        rest = type(parser)(prog=parser.prog, usage=parser.usage)
        _add_options(rest)
        rest.parse_args(ours, namespace)
        if not command:
            run = namespace.run_name
            parser.error(
                f"name a command after `--`, such as `dstack exec {run} -- bash`; "
                f"for a longer session, `dstack attach {run}` and then `ssh {run}`"
            )
        namespace.command = command


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into dstack's options and the command.

    Examples:
        >>> _split(["--replica", "1", "--", "ls", "--", "-l"]), _split(["ls", "-l"])
        ((['--replica', '1'], ['ls', '--', '-l']), ([], ['ls', '-l']))
    """
    if not words or not words[0].startswith("-"):
        return [], list(words)
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run, the job and the command."""
    parser.usage, parser.epilog = USAGE, EXAMPLES
    _add_options(parser)
    parser.add_argument("run_name", metavar="RUN")
    parser.add_argument("command", metavar="-- COMMAND…", nargs=argparse.REMAINDER, action=_Command)


def _add_options(parser: argparse.ArgumentParser) -> None:
    options.add_job(parser)
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument(
        "-t",
        dest="terminal",
        action="store_true",
        default=None,
        help="allocate a terminal (default: if this command has one)",
    )
    terminal.add_argument("-T", dest="terminal", action="store_false", help="do not allocate a terminal")


def run(arguments: argparse.Namespace) -> int:
    """Run the command with this process's streams; return its exit code."""
    import sys

    from dstack.cli.clients import client_of, get_run

    has_terminal = arguments.terminal
    if has_terminal is None:
        has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return get_run(client_of(arguments), arguments.run_name).exec(
        arguments.command, has_terminal=has_terminal, replica_num=arguments.replica, job_num=arguments.job
    )
