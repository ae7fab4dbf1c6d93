"""The program `panoptic`, also as `python -m panoptic_cli`."""

from __future__ import annotations

import sys

from panoptic_cli.errors import INTERRUPTED


def main() -> None:
    """Entry point of the console script. Ctrl-C during the imports, which take a moment, leaves no traceback."""
    try:
        from panoptic_cli.commands import main as program
    except KeyboardInterrupt:
        print("warning: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    program.main()


if __name__ == "__main__":
    main()
