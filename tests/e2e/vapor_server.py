"""`python -m tests.e2e.vapor_server ARGS`: `dstack ARGS` with the driver of tests beside the real ones."""

import sys

from dstack.cli.main import main
from dstack.server import parts
from tests.vapor import drivers_in

if __name__ == "__main__":
    parts.Drivers = drivers_in  # type: ignore[misc,assignment]
    sys.exit(main(sys.argv[1:]))
