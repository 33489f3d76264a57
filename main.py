"""`python main.py`: the same as the `mambarium` command, from a source folder."""

import sys

from mambarium.platform.cli import main

if __name__ == "__main__":
    sys.exit(main())
