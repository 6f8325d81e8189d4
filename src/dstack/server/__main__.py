"""`python -m dstack.server`: how the client starts an embedded server. People use `dstack server`."""

import argparse
import gc
import sys
from pathlib import Path


def main() -> int:
    """Serve with the settings of the arguments."""
    parser = argparse.ArgumentParser(prog="python -m dstack.server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--ready-fd", type=int)
    args = parser.parse_args()
    gc.disable()  # until the server runs: the start makes many objects, and nearly all of them stay
    from dstack.server.app import serve

    return serve(args.host, args.port, args.data_dir, args.embedded, args.ready_fd)


if __name__ == "__main__":
    sys.exit(main())
