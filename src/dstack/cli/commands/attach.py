"""`dstack attach`: open the way into a run."""

import argparse

from dstack.cli import files, options

HELP = "forward a run's ports and make `ssh RUN` work, until the run ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run and the local ports."""
    parser.add_argument("run_name", metavar="RUN")
    parser.add_argument("--logs", action="store_true", help="show its log too")
    parser.add_argument("--host", metavar="ADDRESS", help="the local address to listen on (default: localhost)")
    parser.add_argument(
        "-p",
        "--port",
        action="append",
        dest="ports",
        metavar="LOCAL:PORT",
        help="use another local port; may be repeated",
    )
    options.add_job(parser)


def run(arguments: argparse.Namespace) -> int:
    """Stay attached until the run ends; Ctrl-C does not stop the run."""
    from dstack.api import _ssh_config
    from dstack.cli import following, words
    from dstack.cli.clients import client_of, get_run

    one = get_run(client_of(arguments), arguments.run_name)

    def enter() -> None:
        following.attach(
            one, bind_address=arguments.host, ports=arguments.ports, replica=arguments.replica, job=arguments.job
        )
        if one.ssh_host is not None:
            way_in = _ssh_config.command(one.ssh_host)
            words.say(f"Attached to `{one.name}`: `{way_in}` opens a shell in it. Ctrl-C detaches; the run continues")

    try:
        which = following.Which(one, arguments.replica, arguments.job)
        following.go_along(which, shows_log=arguments.logs, enter=enter)
        code = following.ended(one)
        if code and (hint := files.missing_text(one)) is not None:
            words.say(hint)
        return code
    except KeyboardInterrupt:
        words.say(f"\nDetached from `{one.name}`; the run continues")
        return following.EXIT_INTERRUPTED
    finally:
        one.detach()
