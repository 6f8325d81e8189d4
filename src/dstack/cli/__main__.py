"""`python -m dstack.cli`: the same as `dstack`."""

import sys

from dstack.cli.main import program

sys.exit(program())
