"""`python -m dstack.proxy FOLDER CONTROL_SOCKET READY_FD`: see `main.py`."""

import sys

from dstack.proxy.main import main

if __name__ == "__main__":
    sys.exit(main())
