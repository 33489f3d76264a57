"""`python -m mambarium`: the same as the `mambarium` command."""

import sys

from mambarium.platform.cli import main

if __name__ == "__main__":
    sys.exit(main())
