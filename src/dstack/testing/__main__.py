"""`python -m dstack.testing`."""

import sys

from dstack.testing.simulate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
