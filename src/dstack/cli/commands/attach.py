"""`dstack attach`: open the way into a run."""

import argparse

from dstack.cli import options

HELP = "forward a run's ports and make `ssh RUN` work, until the run ends or Ctrl-C"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and which ports where."""
    parser.add_argument("run_name", metavar="RUN")
    parser.add_argument("--logs", action="store_true", help="show its log too")
    parser.add_argument("--host", metavar="ADDRESS", help="the local address to listen on (default: localhost)")
    parser.add_argument(
        "-p", "--port", action="append", dest="ports", metavar="LOCAL:PORT", help="another local port; may be repeated"
    )
    options.add_job(parser)


def run(arguments: argparse.Namespace) -> int:
    """Stay attached; leaving does not stop the run."""
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
            words.say(f"Attached to `{one.name}`: `{way_in}` leads into it. Ctrl-C leaves, and the run goes on")

    try:
        which = following.Which(one, arguments.replica, arguments.job)
        following.go_along(which, shows_log=arguments.logs, enter=enter)
        return following.ended(one)
    except KeyboardInterrupt:
        words.say(f"\nDetached from `{one.name}`, which goes on")
        return following.EXIT_INTERRUPTED
    finally:
        one.detach()
