"""`python -m distill` is the `distill` command; a launcher of several processes starts it so."""

import sys

from distill.cli import console

if __name__ == "__main__":
    sys.exit(console())
