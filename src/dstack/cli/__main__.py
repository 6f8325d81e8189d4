"""`python -m dstack.cli`: the same as `dstack`."""

import sys

from dstack.cli.main import main

sys.exit(main())
