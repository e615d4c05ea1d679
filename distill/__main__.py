"""`python -m distill` is the `distill` command; a launcher of several processes starts it so."""

import sys

from distill.cli import main

if __name__ == "__main__":
    sys.exit(main())
