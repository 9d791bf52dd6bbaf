"""``python -m whisperlab``: the command line."""

from whisperlab.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
