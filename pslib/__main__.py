"""`python -m pslib`: the command line, see `pslib.lab.cli`."""

import sys

from pslib.lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
