"""`dstack server`: serve in the foreground."""

import argparse
from pathlib import Path

HELP = "start a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to listen and where the data is."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=3000, help="the port to listen on (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where the data is (default: `~/.dstack/server`)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to end."""
    from dstack.api import _places
    from dstack.server.app import serve

    data_dir = arguments.data_dir or _places.server_folder()
    return serve(arguments.host, arguments.port, data_dir.absolute(), embedded=False, ready_fd=None)
