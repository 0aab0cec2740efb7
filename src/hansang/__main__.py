"""`python -m hansang` is `hansang`."""

import sys

from hansang.cli import main

if __name__ == "__main__":
    sys.exit(main())
