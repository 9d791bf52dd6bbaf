"""``python -m whisperlab``: the command line."""

import sys

from whisperlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
