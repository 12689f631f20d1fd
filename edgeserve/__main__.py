"""`python -m edgeserve` is the `edgeserve` command."""

import sys

from edgeserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
